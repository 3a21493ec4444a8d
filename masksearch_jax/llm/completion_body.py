"""Reads the body of a 200 reply to /v1/chat/completions, in the forms that servers really write, as a `Completion`.

Enters: bytes. Leaves: text, token counts and how the reply ended, or an error. It accepts the several forms that some
fields have in practice: content as a string, as parts, or null beside a refusal. A token count that is missing or no
number is replaced by a count of bytes, which is too high rather than too low. What the text says is not read here
(reply_text.py).
"""

import json
from collections.abc import Sequence

from masksearch_jax.llm.chat_types import Completion, Message, RequestError, TransientError, Usage
from masksearch_jax.runtime.types import Json, JsonObject

_LENGTH = ("length", "max_tokens", "max_output_tokens", "model_length")
_FILTERED = "content_filter"
_MOST_TOKENS = 2**48  # a larger count is a mistake, and would not fit the cache


class ErrorBody(Exception):
    """A 200 reply that holds an error instead of a completion, as some proxies send. error: its error object."""

    def __init__(self, error: Json):
        super().__init__("an error in a 200 reply")
        self.error = error


def parse_body(data: bytes) -> Json:
    """Return the JSON value of a body. Raises TransientError for one that is no JSON."""
    try:
        return json.loads(data.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise TransientError(f"the reply cannot be read: {str(error)[:200]}") from error


def read_completion(data: bytes, messages: Sequence[Message]) -> Completion:
    """Return the completion in the body of a reply to `messages`.

    Raises TransientError for a body that is no chat completion, RequestError for a reply that a content filter cut, and
    ErrorBody for an error.
    """
    body = parse_body(data)
    if isinstance(body, dict) and body.get("error") and not body.get("choices"):
        raise ErrorBody(body["error"])
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise TransientError("the reply is no chat completion: it has no choices[0].message")
    text = _cleaned(_text_of(message))
    finish = choice.get("finish_reason")
    finish = finish.lower() if isinstance(finish, str) and finish else "stop"
    if finish == _FILTERED:
        raise RequestError("the server's content filter cut the reply (finish_reason content_filter)")
    usage = _usage(body.get("usage"), messages, text, message)
    return Completion(text, usage, "length" if finish in _LENGTH else finish)


def _text_of(message: JsonObject) -> str:
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):
        content = "".join(map(_text_of_part, content))
    if isinstance(content, str) and (content or not isinstance(refusal, str)):
        return content
    if content is None or content == "":
        return refusal if isinstance(refusal, str) else ""
    raise TransientError("the reply is no chat completion: its content is no text")


def _text_of_part(part: Json) -> str:
    """Return the text of one part of a content: {"type": "text", "text": ..}, or a string; '' for any other part."""
    if isinstance(part, dict):
        part = part.get("text")
        if isinstance(part, dict):  # {"text": {"value": ..}}
            part = part.get("value")
    return part if isinstance(part, str) else ""


def _usage(usage: Json, messages: Sequence[Message], text: str, message: JsonObject) -> Usage:
    found = usage if isinstance(usage, dict) else {}
    thought = message.get("reasoning_content") or message.get("reasoning")
    written = _byte_count(text) + (_byte_count(thought) if isinstance(thought, str) else 0)
    asked = sum(_byte_count(m.content) for m in messages)
    return Usage(_count(found.get("prompt_tokens"), asked), _count(found.get("completion_tokens"), written))


def _count(value: Json, otherwise: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else otherwise


def _byte_count(text: str) -> int:
    return len(text.encode(errors="replace"))


def _cleaned(text: str) -> str:
    """Return the text with '?' for each half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    return text.encode(errors="replace").decode()
