"""Models on the Hugging Face Hub: which setting names one, and the folder of this machine that holds its files.

Enters: 'ORG/NAME' or 'ORG/NAME@REVISION'. Leaves: a published folder in the cache of huggingface_hub, where other
programs put their copies too. Weights are fetched as safetensors, never as pickles. Left out: what the files say
(load.py, families.py).
"""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from masksearch_jax.model.published.safetensors_files import INDEX, SINGLE
from masksearch_jax.runtime import json_files

# What a run reads of a published folder.
_FILES = (
    "config.json", "generation_config.json", "model*.safetensors", INDEX, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "LICENSE*",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OUR_FOLDER = "runs"  # where commands write by default, so never an organisation


def split_name(pretrained: str) -> tuple[str, str]:
    """Return (ORG/NAME, REVISION) of a setting that names a model of the Hub; ('', '') if it names a folder.

    A folder that exists is a folder, and so is a missing one in a folder that exists: `runs/typo` or `models/typo`. A
    revision after '@' is part of a name on the Hub alone.
    """
    name, at, revision = pretrained.partition("@")
    if Path(pretrained).exists() or not _NAME.fullmatch(name) or (at and not revision):
        return "", ""
    parent = name.partition("/")[0]
    if not at and (parent == _OUR_FOLDER or Path(parent).is_dir()):
        return "", ""
    return name, revision


def fetch(name: str, revision: str = "") -> Path:
    """Return the folder of a model's files in the cache, after fetching those that are not there.

    name: ORG/NAME. revision: a branch, a tag or a commit; '' means main. The folder's name is the commit. Without a
    network, or with HF_HUB_OFFLINE=1, the files in the cache are taken. Raises FileNotFoundError or ValueError that
    says what to do if the model or its revision does not exist, is closed to this user, or is not in the cache.
    """
    called = f"pretrained={name}" + (f"@{revision}" if revision else "")
    page = f"https://huggingface.co/{name}"
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(_FILES)))
    except errors.GatedRepoError:
        raise ValueError(
            f"{called}: its owner lets in whoever accepts the terms; accept them at {page}, then run `hf auth login` "
            "or set HF_TOKEN, and start the same line again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{called}: there is no such folder here and no such model at {page}; look at the spelling, and for a "
            "private model run `hf auth login` or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{called}: the model has no such branch, tag or commit; see {page}/commits/main") from None
    except errors.HFValidationError as error:
        raise ValueError(f"{called}: no folder here, and no name on the Hub ({error})") from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
        raise FileNotFoundError(_unreachable(called, name, revision, error)) from error
    _check_whole(folder, called, name, revision)
    return folder


def _unreachable(called: str, name: str, revision: str, error: Exception) -> str:
    if constants.is_offline_mode():
        why = "HF_HUB_OFFLINE=1 forbids to fetch it"
    else:
        why = f"the Hub does not give it ({str(error).splitlines()[0]})"
    part = "a part of it" if isinstance(error, errors.IncompleteSnapshotError) else "nothing of it"
    return (
        f"{called}: there is no such folder here, the cache {constants.HF_HUB_CACHE} holds {part}, and {why}; "
        f"{_by_hand(name, revision)}"
    )


def _by_hand(name: str, revision: str) -> str:
    asked = f" --revision={revision}" if revision else ""
    return (
        f"on a machine with a network run `hf download {name}{asked} --local-dir=FOLDER`, copy FOLDER here, and give "
        "--config.pretrained=FOLDER"
    )


def _check_whole(folder: Path, called: str, name: str, revision: str) -> None:
    """Raise FileNotFoundError that names what a folder of the cache lacks, as after a fetch that was stopped."""
    needed = ["config.json", "tokenizer.json"]
    if (folder / INDEX).is_file():
        placed = json_files.read_json_object(folder / INDEX, "remove it, and start again", ("weight_map",))
        needed += sorted(set(map(str, placed["weight_map"].values())))
    else:
        needed.append(SINGLE)
    if lacking := [file for file in needed if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"{called}: {folder} lacks {', '.join(lacking)}. If the model has them, the fetch was stopped or the Hub "
            f"was out of reach: start again with a network, or {_by_hand(name, revision)}. A model without them is "
            "not in the form that transformers saves, with safetensors and a fast tokenizer"
        )
