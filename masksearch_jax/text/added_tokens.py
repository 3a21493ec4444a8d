"""The added tokens of a tokenizer.json: which of them any text can produce, and which only a chat template can.

Enters: the parsed file. Leaves: the same dict, changed in place before the tokenizers library reads it.
"""

from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import tags


def make_tags_plain(settings: JsonObject) -> list[str]:
    """Change a tokenizer.json so that added tokens that are our tags are found exactly where a text spells them.

    They take in no whitespace around them, and no other spelling becomes one of them. Returns the tags that were
    special tokens: without this change they would never be found in a text.
    """
    special = []
    for token in settings.get("added_tokens") or []:
        if token.get("content") in tags.ALL:
            special += [token["content"]] if token.get("special") else []
            token |= dict.fromkeys(("special", "lstrip", "rstrip", "single_word", "normalized"), False)
    return sorted(special)


def make_control(settings: JsonObject, said: str) -> list[str]:
    """Change a tokenizer.json so that added tokens that a chat template spells are special: no text produces them.

    said: the template's source, followed by what it writes. Returns the names of the changed tokens. Added tokens of
    ordinary text, such as line ends and words, stay as they are, because templates write those as text too.
    """
    found = []
    for token in settings.get("added_tokens") or []:
        name = token.get("content")
        if name in tags.ALL or token.get("special") or not name or name not in said:
            continue
        if any(mark in name for mark in "<>[]|｜"):
            token["special"] = True
            found.append(name)
    return sorted(found)
