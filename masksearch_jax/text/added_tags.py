"""Our tags as added tokens of a published tokenizer: one id per tag, instead of three or four ids as plain text.

Enters: a folder with tokenizer.json. Leaves: the same file with a token for each tag that the vocabulary lacks, with
ids after the last one. Each new token gets a row of the model's embedding (model/published/added_rows.py), which SFT
trains. It is one of the spare rows that some models are published with, or a new row.
"""

from pathlib import Path

from masksearch_jax.runtime.json_files import read_json_object, write_json
from masksearch_jax.text import tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer


def add_tags(folder: Path) -> list[str]:
    """Append the missing tags to `folder`/tokenizer.json, atomically, and return them.

    Raises ValueError for a file that is no tokenizer.json.
    """
    path = folder / "tokenizer.json"
    settings = read_json_object(path, "download the folder again")
    added = list(settings.get("added_tokens") or [])
    vocabulary = (settings.get("model") or {}).get("vocab")
    if not isinstance(vocabulary, dict) or not all(isinstance(id, int) for id in vocabulary.values()):
        raise ValueError(f"{path} has no vocabulary of tokens by id, which tokenizer.added_tags appends to")
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("id"), int) or "content" not in token:
            raise ValueError(f"{path}: added token {token!r} has no id or no content; download the folder again")
    ids = [*vocabulary.values(), *(token["id"] for token in added)]
    known = {*vocabulary, *(token["content"] for token in added)}
    missing = [tag for tag in tags.ALL if tag not in known]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    settings["added_tokens"] = added + [
        {"id": max(ids) + 1 + place, "content": tag, **plain} for place, tag in enumerate(missing)
    ]
    write_json(path, settings)
    return missing


def former_ids(tokenizer: Tokenizer, published: Path) -> dict[int, list[int]]:
    """Return {id of an added tag: the ids that spelled it before}.

    It covers every tag that is a token of `tokenizer` but not of the tokenizer in the folder `published`. It is {} for
    a `tokenizer` that is no PublishedTokenizer, and for a folder without tokenizer.json. Raises as PublishedTokenizer.
    """
    from masksearch_jax.text.published_tokenizer import PublishedTokenizer

    if not isinstance(tokenizer, PublishedTokenizer) or not (published / "tokenizer.json").exists():
        return {}
    ids = {tag: id for tag in tags.ALL if (id := _id(tokenizer, tag)) is not None}
    if not ids:
        return {}
    before = PublishedTokenizer(published)
    return {id: before.encode(tag) for tag, id in ids.items() if _id(before, tag) is None}


def _id(tokenizer: Tokenizer, tag: str) -> int | None:
    try:
        return tokenizer.id(tag)
    except KeyError:
        return None
