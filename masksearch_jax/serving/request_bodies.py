"""Read the bodies of requests to /v1/completions and /v1/chat/completions, as OpenAI documents them.

Enters: JSON values. Leaves: checked dataclasses, or a RequestError that names the field, its value and what is allowed.
A field that asks for something that this server does not do is refused unless it has the value that changes nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping

from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.serving.sampling_programs import ALTERNATIVES

_ROLES = ("system", "developer", "user", "assistant")
_MOST_STOPS, _MOST_CHOICES, _MOST_PROMPTS, _MOST_MESSAGES = 16, 64, 256, 256
_LARGEST = 1 << 62
# Fields with the values that ask for nothing. `user` and its like are for statistics of a provider.
_NOTHING: dict[str, tuple[Json, ...]] = {
    "frequency_penalty": (None, 0), "presence_penalty": (None, 0), "logit_bias": (None, {}), "suffix": (None, ""),
    "best_of": (None, 1), "tools": (None, []), "tool_choice": (None, "none", "auto"), "functions": (None, []),
    "function_call": (None, "none", "auto"), "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False), "store": (None, False), "audio": (None,), "prediction": (None,),
}  # fmt: skip
_IGNORED = ("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key")
_STREAM_OPTIONS = {"include_usage", "include_obfuscation"}
_SHARED = ("model", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "stop", "seed", "logprobs")


class RequestError(Exception):
    """A request that cannot be answered. status: of HTTP. param: the field at fault, or None. code: OpenAI's name."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What both kinds of requests may ask for; None where the request does not say.

    max_tokens: of a choice. choices: replies to each prompt. alternatives: likeliest tokens beside each token, None for
    no log-probs at all. usage: whether a stream ends with the counts of tokens.
    """

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    choices: int
    alternatives: int | None
    stream: bool
    usage: bool


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """messages: (role, text) each; the last one is a user's."""

    wishes: Wishes
    messages: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """prompts: texts, or token ids. echo: the reply begins with the prompt."""

    wishes: Wishes
    prompts: list[str | list[int]]
    echo: bool


def read_chat(body: Json) -> ChatRequest:
    """Return the request of a body. Raises RequestError."""
    given = _object(body, ("messages", "max_completion_tokens", "top_logprobs"))
    if given.get("max_completion_tokens") is not None:
        given = given | {"max_tokens": given["max_completion_tokens"]}
    wants = _flag(given, "logprobs")
    alternatives = _whole(given, "top_logprobs", 0, ALTERNATIVES)
    if alternatives is not None and not wants:
        raise RequestError("top_logprobs needs logprobs=true", "top_logprobs")
    found = _wishes(given, (alternatives or 0) if wants else None)
    said = given.get("messages")
    if not isinstance(said, list) or not 0 < len(said) <= _MOST_MESSAGES:
        raise _wrong("messages", said, f"a list of 1 to {_MOST_MESSAGES} messages")
    messages = [_message(number, one) for number, one in enumerate(said)]
    if messages[-1][0] != "user":
        raise RequestError(f"the last message is of the role {messages[-1][0]!r}; a user's is answered", "messages")
    return ChatRequest(found, messages)


def read_completion(body: Json) -> CompletionRequest:
    """Return the request of a body. Raises RequestError."""
    given = _object(body, ("prompt", "echo"))
    echo, alternatives = _flag(given, "echo"), given.get("logprobs")
    if isinstance(alternatives, bool):
        alternatives = 0 if alternatives else None
    else:
        alternatives = _whole(given, "logprobs", 0, ALTERNATIVES)
    found = _wishes(given, alternatives, least=0 if echo else 1)
    return CompletionRequest(found, _prompts(given.get("prompt")), echo)


def _object(body: Json, own: tuple[str, ...]) -> JsonObject:
    if not isinstance(body, dict):
        raise RequestError("the body has to be a JSON object")
    for name, value in body.items():
        if name in _NOTHING and value not in _NOTHING[name]:
            raise RequestError(f"{name}={_shown(value)} is not supported here; leave it out", name)
        if name not in (*own, *_SHARED, *_NOTHING, *_IGNORED):
            raise RequestError(f"{_shown(name)} is no field of this request", str(name)[:100])
    return body


def _wishes(given: Mapping[str, Json], alternatives: int | None, least: int = 1) -> Wishes:
    model, options, stream = given.get("model"), given.get("stream_options"), _flag(given, "stream")
    if model is not None and not isinstance(model, str):
        raise _wrong("model", model, "a name")
    if options is not None and not (isinstance(options, dict) and set(options) <= _STREAM_OPTIONS):
        raise _wrong("stream_options", options, 'an object such as {"include_usage": true}')
    top_p = _number(given, "top_p", lambda value: 0 < value <= 1, "a number above 0 and up to 1")
    return Wishes(
        model=model,
        max_tokens=_whole(given, "max_tokens", least, _LARGEST),
        temperature=_number(given, "temperature", lambda value: 0 <= value <= 100, "a number from 0 to 100"),
        top_p=1.0 if top_p is None else top_p,
        seed=_whole(given, "seed", -_LARGEST, _LARGEST),
        stop=_stops(given.get("stop")),
        choices=_whole(given, "n", 1, _MOST_CHOICES) or 1,
        alternatives=alternatives,
        stream=stream,
        usage=_flag(options or {}, "include_usage"),
    )


def _message(number: int, one: Json) -> tuple[str, str]:
    where = f"messages[{number}]"
    if not isinstance(one, dict) or one.get("role") not in _ROLES:
        role = one.get("role") if isinstance(one, dict) else one
        raise RequestError(f"{where}: its role is {_shown(role)}; it has to be one of {', '.join(_ROLES)}", "messages")
    content = one.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise RequestError(f"{where}: its content is {_shown(content)}; it has to be text", "messages")
    return "system" if one["role"] == "developer" else one["role"], _whole_characters(content)


def _prompts(said: Json) -> list[str | list[int]]:
    if isinstance(said, str) or (isinstance(said, list) and said and _is_ids(said)):
        said = [said]
    if (
        not isinstance(said, list)
        or not 0 < len(said) <= _MOST_PROMPTS
        or not all(isinstance(one, str) or (isinstance(one, list) and one and _is_ids(one)) for one in said)
    ):
        raise _wrong("prompt", said, f"text, a list of token ids, or a list of 1 to {_MOST_PROMPTS} of either")
    return [_whole_characters(one) if isinstance(one, str) else one for one in said]


def _is_ids(value: list[Json]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _whole_characters(text: str) -> str:
    """Return text in which halves of characters, which JSON can spell, are U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _stops(said: Json) -> tuple[str, ...]:
    found = [] if said is None else [said] if isinstance(said, str) else said
    if (
        not isinstance(found, list)
        or len(found) > _MOST_STOPS
        or not all(isinstance(one, str) and 0 < len(one) <= 1000 for one in found)
    ):
        raise _wrong("stop", said, f"text, or a list of at most {_MOST_STOPS} texts, none empty")
    return tuple(found)


def _flag(given: Mapping[str, Json], name: str) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return bool(value)


def _whole(given: Mapping[str, Json], name: str, least: int, most: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        upper = "" if most == _LARGEST else f" and at most {most}"
        raise _wrong(name, value, f"a whole number of at least {least}{upper}")
    return value


def _number(given: Mapping[str, Json], name: str, admits: Callable[[float], bool], says: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not admits(value):
        raise _wrong(name, value, says)  # no range admits what is not finite
    return float(value)


def _wrong(name: str, value: Json, says: str) -> RequestError:
    return RequestError(f"{name}={_shown(value)} has to be {says}", name)


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}.."
