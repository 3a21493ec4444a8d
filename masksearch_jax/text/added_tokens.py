"""The added tokens of a tokenizer.json: which of them a text makes, and which only a chat template.

Enters: the parsed file. Leaves: the file changed in place, before the tokenizers library reads it.
"""

from typing import Any

from masksearch_jax.text import tags


def make_tags_plain(settings: dict[str, Any]) -> list[str]:
    """Change a tokenizer.json so that added tokens which are our tags are found exactly where a text spells them.

    No blank space belongs to them, and no other spelling becomes one. Returns those that were special tokens, which are
    never found in a text otherwise.
    """
    special = []
    for token in settings.get("added_tokens") or []:
        if token.get("content") in tags.ALL:
            special += [token["content"]] if token.get("special") else []
            token |= dict.fromkeys(("special", "lstrip", "rstrip", "single_word", "normalized"), False)
    return sorted(special)


def make_control(settings: dict[str, Any], said: str) -> list[str]:
    """Change a tokenizer.json so that added tokens which a chat template spells are special: no text makes them.

    said: the template's source, and what it writes. Returns their names. Added tokens of ordinary text, such as line
    ends and words, are left: templates write those as text too.
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
