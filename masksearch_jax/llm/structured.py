"""Strict JSON replies: a dataclass says what a reply has to hold, and the model is told what is wrong with a bad one.

Enters: a conversation and a dataclass. Leaves: an instance of it. The reply is one JSON object with exactly the fields,
each of its declared type (str, bool, int, list[...], Literal[...], or another dataclass), no duplicate keys, no NaN.
The dataclass may refuse values in its __post_init__ (ValueError). Nothing is ever evaluated. reply_text.py says what
may stand around the object.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from masksearch_jax.llm import reply_text
from masksearch_jax.llm.chat_types import Message, Sampling
from masksearch_jax.llm.client import Client
from masksearch_jax.runtime.types import Json, JsonObject, Setting

# A type hint of a field: a class, Literal[..] or list[..], which have no type in common.
Hint: TypeAlias = Any

Reply = TypeVar("Reply")

_SHOWN = 2000  # characters of a bad reply that the model is shown again
_SHOWN_FAULT = 600  # characters of what is wrong with it, which may quote a value of the reply


class ReplyError(ValueError):
    """The model did not write what was asked for, even in the last attempt."""


def ask(
    client: Client,
    messages: Sequence[Message],
    kind: type[Reply],
    sampling: Sampling,
    attempts: int = 3,
    check: Callable[[Reply], str] = lambda reply: "",
    **limits: Setting,
) -> Reply:
    """Ask the model and return its reply as `kind`.

    check: returns what is wrong with a well-formed reply, '' if nothing. limits: timeout_s and retries, as
    Client.complete takes them. Raises ReplyError after `attempts` bad replies, and what Client.complete raises.
    """
    conversation, fault = list(messages), ""
    for attempt in range(attempts):
        # The same bad reply twice makes the same conversation again: a sampled reply needs another seed to differ.
        drawn = dataclasses.replace(sampling, seed=sampling.seed + attempt) if sampling.temperature else sampling
        completion = client.complete(conversation, drawn, **limits)
        try:
            if completion.finish == "length":
                raise ValueError(f"the reply was cut at {sampling.max_tokens} tokens; write less")
            reply = parse(completion.text, kind)
            if not (fault := check(reply)):
                return reply
        except ValueError as error:
            fault = str(error)
        fault = fault[:_SHOWN_FAULT]
        # The reply and its fault stand in one user message, which every chat template can show.
        said = f"Your reply was:\n{completion.text[:_SHOWN]}\n\nIt cannot be used: {fault}. Reply again: {shape(kind)}"
        conversation = [*messages, Message("user", said)]
    raise ReplyError(f"{client.model} did not write a {kind.__name__} in {attempts} attempts; the last fault: {fault}")


def parse(text: str, kind: type[Reply]) -> Reply:
    """Return the one JSON object of a reply as `kind`. Raises ValueError that says what is wrong."""
    try:
        value = reply_text.read_value(text, _DECODER)
        return _read(value, kind, "the reply")
    except RecursionError:
        raise ValueError("not one JSON object: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not one JSON object: {error}") from None


def shape(kind: type) -> str:
    """Return the words that tell the model which JSON object to write."""
    return f"one JSON object, nothing around it, of the form {json.dumps(_example(kind))}"


def _example(kind: Hint) -> Json:
    if _is_record(kind):
        return {field.name: _example(hint) for field, hint in _fields(kind)}
    origin: Hint = typing.get_origin(kind)
    if origin is typing.Literal:
        return " | ".join(typing.get_args(kind))
    if origin is list:
        return [_example(typing.get_args(kind)[0])]
    return {str: "...", bool: True, int: 1}[kind]


def _is_record(kind: Hint) -> bool:
    return dataclasses.is_dataclass(kind)


def _fields(kind: Hint) -> list[tuple[dataclasses.Field, Hint]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _read(value: Json, kind: Hint, where: str) -> Json:
    """Return a JSON value as `kind`. Raises ValueError, in which `where` names the value."""
    if _is_record(kind):
        names = [field.name for field, _ in _fields(kind)]
        if not isinstance(value, dict):
            raise ValueError(f"{where} has to be a JSON object with the keys {names}")
        if set(value) != set(names):
            raise ValueError(f"{where} has the keys {sorted(value)}, it has to have {names}")
        return kind(**{f.name: _read(value[f.name], hint, f"{where}.{f.name}") for f, hint in _fields(kind)})
    origin: Hint = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is typing.Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{where} is {value!r}, it has to be one of {list(arguments)}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ValueError(f"{where} has to be a list")
        return [_read(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(kind, types.GenericAlias) or type(value) is not kind:  # bool is no int here
        raise ValueError(f"{where} is {value!r}, it has to be of type {kind.__name__}")
    if kind is str:
        value.encode()  # half a surrogate pair, which JSON can spell, is no text
    return value


def _unique(pairs: list[tuple[str, Json]]) -> JsonObject:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
