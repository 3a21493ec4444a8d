"""The JSON value in the text of a reply, without what models write around it whatever they are told.

Enters: the text, from an endpoint or a checkpoint alike. Leaves: the one JSON value that the reply is. The following
may surround it, from the outside in: whitespace and a byte-order mark; end-of-turn tokens that a server did not cut
off; the channels of the harmony format, of which the final one counts; thoughts with or without an opening tag, of
which the end of the last one counts; one fenced block with a preface and an afterword. Prose around a value without a
fence is an error. Each step reads on from where the last one stopped, so the time is linear in the length of the text.
"""

import json
import re

from masksearch_jax.runtime.types import Json

_MARK = "\ufeff"  # byte-order mark
_END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>", "<eos>", "<end_of_turn>",
    "<|end|>", "<|return|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
_OPENING = re.compile(r"<think>|<thinking>|<thought>|\[THINK\]")
_CLOSING = re.compile(r"</think>|</thinking>|</thought>|\[/THINK\]")
_SPACE = re.compile(r"[\s\ufeff]*")
_FENCE = re.compile(r"`{3,}[ \t]*(?:json\w*)?\s*", re.IGNORECASE)
_MOST_FENCES = 50  # that are tried: a JSON error counts the lines before it, so each one costs a pass over the text
_HARMONY = ("<|channel|>", "<|start|>")
_FINAL, _MESSAGE = "<|channel|>final", "<|message|>"
# What is left of the channels if a server drops the special tokens.
_BARE_ANALYSIS, _BARE_FINAL = "analysis", "assistantfinal"


def read_value(text: str, decoder: json.JSONDecoder) -> Json:
    """Return the JSON value of a reply.

    Raises ValueError that says what is wrong (json.JSONDecodeError if it is the JSON), and RecursionError for a value
    that is nested too deeply.
    """
    start, end = _bounds(text)
    start = _after_thoughts(text, _after_channels(text, start, end), end)
    try:
        return _value(text[start:end], decoder)
    except json.JSONDecodeError:
        # A draft came first, or braces in a thought without an opening tag.
        closed = max((match.end() for match in _CLOSING.finditer(text, start, end)), default=start)
        if closed == start:
            raise
        return _value(text[_skip_space(text, closed, end) : end], decoder)


def _bounds(text: str) -> tuple[int, int]:
    """Return (start, end) of the reply without whitespace, byte-order mark and end-of-turn tokens around it."""
    start, end = _skip_space(text, 0, len(text)), len(text)
    while end > start:
        if text[end - 1].isspace() or text[end - 1] == _MARK:
            end -= 1
        elif token := next((token for token in _END_TOKENS if text.endswith(token, start, end)), ""):
            end -= len(token)
        else:
            break
    return start, end


def _after_channels(text: str, start: int, end: int) -> int:
    """Return where the final channel's message begins if the text has the harmony format, else `start`.

    Whitespace there is skipped."""
    if text.startswith(_HARMONY, start, end):
        final = text.rfind(_FINAL, start, end)
        message = text.find(_MESSAGE, final, end) if final >= 0 else -1
        if message < 0:
            raise ValueError("the reply has no final channel")
        start = message + len(_MESSAGE)
    elif text.startswith(_BARE_ANALYSIS, start, end) and (final := text.rfind(_BARE_FINAL, start, end)) >= 0:
        start = final + len(_BARE_FINAL)
    return _skip_space(text, start, end)


def _after_thoughts(text: str, start: int, end: int) -> int:
    """Return where the text after the leading thoughts begins."""
    while True:
        opened = _OPENING.match(text, start, end)
        if not opened and text.startswith(("{", "[", "```"), start, end):
            return start
        closed = _CLOSING.search(text, start, end)
        if not closed:
            if opened:
                raise ValueError("the reply is a thought that never ends")
            return start
        start = _skip_space(text, closed.end(), end)


def _skip_space(text: str, start: int, end: int) -> int:
    """Return where the blank space that begins at `start` ends; `start` if there is none."""
    found = _SPACE.match(text, start, end)
    return found.end() if found else start


def _value(text: str, decoder: json.JSONDecoder) -> Json:
    if text.startswith(("{", "[")) or "```" not in text:
        return decoder.decode(text)
    found, place, fault, tried = [], 0, None, 0
    while (place := text.find("```", place)) >= 0:
        fence = _FENCE.match(text, place)
        place = fence.end() if fence else place + len("```")
        if not text.startswith(("{", "["), place):
            continue  # the end of a block, or a block of something else
        if (tried := tried + 1) > _MOST_FENCES:
            raise ValueError(f"more than {_MOST_FENCES} fenced blocks stand in the reply")
        try:
            value, after = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            fault = fault or error
            continue
        after = _skip_space(text, after, len(text))
        if after < len(text) and not text.startswith("```", after):
            fault = fault or json.JSONDecodeError("Extra data", text, after)
            continue
        found.append(value)
        place = after + 3
    if len(found) > 1:
        raise ValueError(f"{len(found)} fenced values stand in the reply")
    if not found:
        raise fault or json.JSONDecodeError("Expecting value", text, 0)
    return found[0]
