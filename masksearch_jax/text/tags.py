"""The tags of an episode, the mask, and how texts join at them.

Texts join so that tokenising the parts equals tokenising the whole: a space follows an opening tag, and none precedes a
closing tag (`<search> Karn Velith birthplace</search>`). Word-initial tokens then look the same in a passage, a query
and an answer, which a small model needs in order to copy.

An episode has one tool, `search`, or several. Each is called by tags of its name: `<visit> Karn Velith</visit>`.
Functions that depend on the tools take their names; by default there is the search alone.
"""

import functools
import re
from collections.abc import Sequence

THINK = ("<think>", "</think>")
SEARCH = ("<search>", "</search>")
INFORMATION = ("<information>", "</information>")
ANSWER = ("<answer>", "</answer>")
MASK = "[mask]"

CLOSING = (SEARCH[1], ANSWER[1])  # what ends a turn, with one tool

ONE_TOOL = ("search",)
# No tool may have one of these names: they are tags already, or kinds of turns.
RESERVED = ("answer", "think", "information", "mask", "invalid")
_TOOL_NAME = re.compile("[a-z][a-z0-9_]{0,31}")

ALL = (*THINK, *SEARCH, *INFORMATION, *ANSWER, MASK)

# Filled spans are joined by this inside the answer tags.
SPAN_SEPARATOR = ";"


def check_tools(tools: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the tools; raise ValueError that names one that cannot be a tag, or that stands twice."""
    for place, name in enumerate(tools):
        if not _TOOL_NAME.fullmatch(name) or name in RESERVED or name in tools[:place]:
            raise ValueError(
                f"{name!r} cannot name a tool: names are distinct, of small letters, digits and '_', begin with a "
                f"letter, and are none of {', '.join(RESERVED)}"
            )
    return tuple(tools)


def tool_tags(tool: str) -> tuple[str, str]:
    """Return the opening and the closing tag of a tool."""
    return f"<{tool}>", f"</{tool}>"


@functools.cache
def closing_tags(tools: tuple[str, ...] = ONE_TOOL) -> tuple[str, ...]:
    """Return what ends a turn: the closing tag of each tool, and that of the answer."""
    return (*(tool_tags(tool)[1] for tool in tools), ANSWER[1])


@functools.cache
def all_tags(tools: tuple[str, ...] = ONE_TOOL) -> tuple[str, ...]:
    """Return every tag of an episode with these tools, and the mask."""
    return (*ALL, *(tag for tool in tools if tool not in ONE_TOOL for tag in tool_tags(tool)))


def neutralise(text: str, tools: tuple[str, ...] = ONE_TOOL) -> str:
    """Return text in which none of our tags survives: '<search>' becomes '(search)'.

    Halves of characters (lone surrogates, which JSON can spell and no tokenizer accepts) become U+FFFD.
    """
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    for tag in all_tags(tools):
        if tag in text:
            text = text.replace(tag, "(" + tag.strip("<>[]") + ")")
    return text


def neutralise_all_but_masks(text: str) -> str:
    """Return text in which masks are the only tags that survive."""
    return MASK.join(map(neutralise, text.split(MASK)))


def block(tags: tuple[str, str], content: str) -> str:
    """Return `<tag> content</tag>`."""
    return f"{tags[0]} {content}{tags[1]}"
