"""Our tags as added tokens of a published tokenizer: one id each, instead of the three or four that they are as text.

Enters: a folder with tokenizer.json. Leaves: the same file with a token for each tag that the vocabulary lacks, with
ids after the last one. The model's embedding grows by as many rows (model/published/added_rows.py), which SFT trains.
"""

from collections.abc import Sequence
from pathlib import Path

from masksearch_jax.runtime.json_files import read_json_object, write_json
from masksearch_jax.text import tags


def add_tags(folder: Path) -> list[str]:
    """Append the tags to `folder`/tokenizer.json, atomically; return those that were added.

    Raises ValueError for a file that is no tokenizer.json.
    """
    path = folder / "tokenizer.json"
    settings = read_json_object(path, "download the folder again")
    added = list(settings.get("added_tokens") or [])
    vocabulary = (settings.get("model") or {}).get("vocab")
    if not isinstance(vocabulary, dict) or not all(isinstance(token, dict) for token in added):
        raise ValueError(f"{path} has no vocabulary of tokens by id, which tokenizer.added_tags appends to")
    ids = [*vocabulary.values(), *(token["id"] for token in added)]
    known = {*vocabulary, *(token["content"] for token in added)}
    missing = [tag for tag in tags.ALL if tag not in known]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    settings["added_tokens"] = added + [
        {"id": max(ids) + 1 + place, "content": tag, **plain} for place, tag in enumerate(missing)
    ]
    write_json(path, settings)
    return missing


def former_ids(tokens: Sequence[str], published: Path) -> list[list[int]]:
    """Return for each added token the ids that spelled it in the published tokenizer, in order."""
    from masksearch_jax.text.published import PublishedTokenizer

    tokenizer = PublishedTokenizer(published)
    return [tokenizer.encode(token) for token in tokens]
