"""Reads and writes the records of the official code: RAMP pairs and chatml trajectories (one JSON object per line).

A pair is `{"query", "answer", "ext": {"mask_num", "masks", "entities", "source", "title"}}`: the masked paragraph with
its instruction, and the whole paragraph. A trajectory is `{"type": "chatml", "messages": [system, user, assistant with
function_call web_search {"queries": [...]}, function, ..], "functions", "ext": {"response_acc"}}`: assistant text is a
<think> block, then a <search> or an <answer> block; results come in an <information> block.

Left out, because the records have no place for them: passage ids and other accepted answers of a task. A turn that
searched with several queries is read as one query, the queries joined by '; ', because our policy searches with one
text per turn.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from masksearch_jax.agents.transcript import Search, Transcript
from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.text import prompt, tags

T = TypeVar("T")

INSTRUCTION = "Fill in every [mask] and repeat the whole paragraph, otherwise unchanged."
SYSTEM = "Solve the task with the search tool, then answer."
QUERY_SEPARATOR = "; "
_FUNCTION = {
    "name": "web_search",
    "description": "Searches an encyclopedia.",
    "parameters": {
        "type": "object",
        "properties": {"queries": {"type": "array", "items": {"type": "string"}}},
        "required": ["queries"],
    },
}


class RecordError(ValueError):
    """A record does not have the official form. The message says what is wrong."""


# --- RAMP pairs ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pair:
    """The parts of a RAMP pair.

    text: the masked paragraph. masks: the masked strings in reading order. entities: all strings that could have been
    masked."""

    text: str
    paragraph: str
    masks: list[str]
    entities: list[str]
    source: str
    title: str
    instruction: str


def pair_of(task: records.Task, instruction: str = INSTRUCTION, source: str = "wikipedia") -> Pair:
    """Return the pair of a masked passage, with its own spans as entities. Raises RecordError for a question."""
    if task.kind != "ramp":
        raise RecordError(f"task {task.id} is a question; a RAMP pair is a masked passage")
    masks = [accepted[0] for accepted in task.answers]
    return Pair(task.text, task.paragraph, masks, sorted(set(masks)), source, task.title, instruction)


def write_pair(pair: Pair) -> JsonObject:
    ext = {"mask_num": len(pair.masks), "masks": pair.masks, "entities": pair.entities, "source": pair.source}
    query = f"{pair.text}\n{pair.instruction}" if pair.instruction else pair.text
    return {"query": query, "answer": pair.paragraph, "ext": ext | {"title": pair.title}}


def read_pair(record: Json) -> Pair:
    """Return the pair of a record.

    We find the masked paragraph by aligning the answer with the query; what follows it in the query is the instruction.
    Raises RecordError if the two do not fit, or if `masks` or `mask_num` disagree with them: the official code draws
    with replacement, so some of its records hold fewer masks than they state.
    """
    query, answer, ext = _fields(record, query=str, answer=str, ext=dict)
    masks, number = _fields(ext, masks=list, mask_num=int)
    if not all(isinstance(mask, str) and mask for mask in masks):
        raise RecordError(f"ext.masks holds something else than text: {masks!r}")
    literals = query.split(tags.MASK, len(masks))  # the instruction may name the mask as well
    if len(masks) != len(literals) - 1 or number != len(masks):
        raise RecordError(f"{len(literals) - 1} masks in query, {len(masks)} in ext.masks, ext.mask_num={number}")
    filled = "".join(literal + mask for literal, mask in zip(literals, masks, strict=False))
    if not masks or not answer.startswith(filled):
        raise RecordError("the query, with ext.masks filled in, does not begin as the answer does")
    end = answer[len(filled) :]
    if not literals[-1].startswith(end):
        raise RecordError("the query does not end as the answer does, and an instruction")
    text = query[: len(query) - len(literals[-1]) + len(end)]
    entities = ext.get("entities") if isinstance(ext.get("entities"), list) else masks
    instruction = literals[-1][len(end) :].strip()
    return Pair(text, answer, masks, entities, str(ext.get("source", "")), str(ext.get("title", "")), instruction)


def task_of(pair: Pair, id: str, encode: Callable[[str], list[int]], split: str = "train") -> records.Task:
    """Return the task of a pair, in the answer form 'spans'.

    encode: text -> ids of a prompt (ChatTemplate.encode). The source of the passage is unknown, so search excludes
    nothing."""
    body = prompt.ramp_prompt(pair.text).strip()
    return records.Task(
        id=id, kind="ramp", split=split, prompt=encode(body),
        targets=encode(f"{tags.SPAN_SEPARATOR} ".join(pair.masks)), answer_form="spans",
        answers=[[mask] for mask in pair.masks], span_kinds=["link"] * len(pair.masks),
        text=pair.text, paragraph=pair.paragraph, title=pair.title, passage_id=-1, article_id=-1,
    )  # fmt: skip


# --- chatml trajectories ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """An official trajectory. text: what the user asked. accuracy: the judge's verdict, None if there is none."""

    text: str
    transcript: Transcript
    accuracy: float | None


def write_trajectory(trajectory: Trajectory, system: str = SYSTEM) -> JsonObject:
    done = trajectory.transcript
    messages: list[JsonObject] = [{"role": "system", "content": system}, {"role": "user", "content": trajectory.text}]
    for one in done.searches:
        arguments = json.dumps({"queries": [one.query]}, ensure_ascii=False)
        call = {"name": _FUNCTION["name"], "arguments": arguments}
        messages.append({"role": "assistant", "content": one.text, "function_call": call})
        found = " ".join(f"{hit.title}: {hit.text}" for hit in one.hits) or prompt.NOTHING_FOUND
        shown = tags.block(tags.INFORMATION, tags.neutralise(found))
        messages.append({"role": "function", "name": _FUNCTION["name"], "content": shown})
    messages.append({"role": "assistant", "content": done.text})
    ext = {"response_acc": trajectory.accuracy}
    return {"type": "chatml", "messages": messages, "functions": [_FUNCTION], "ext": ext}


def read_trajectory(record: Json) -> Trajectory:
    """Return the trajectory of a record. Raises RecordError, naming the message, for any other form than the above."""
    kind, messages, ext = _fields(record, type=str, messages=list, ext=dict)
    if kind != "chatml":
        raise RecordError(f"type is {kind!r}, it has to be 'chatml'")
    turns = [_fields(m, role=str, content=str) for m in messages]
    asked = [number for number, (role, _) in enumerate(turns) if role == "user"]
    if len(asked) != 1 or any(role != "system" for role, _ in turns[: asked[0]]):
        raise RecordError("one user message is needed, with nothing but a system message before it")
    rest, searches = list(range(asked[0] + 1, len(turns))), []
    while len(rest) > 1:
        place, results, *rest = rest
        thought, _ = _turn(turns[place], place, tags.SEARCH)
        if turns[results][0] != "function":
            raise RecordError(f"message {results} is of {turns[results][0]!r}; the results of a function are due")
        query = _queries(messages[place], place)
        searches.append(Search(thought, query, _hits(turns[results][1], results)))
    if not rest:
        raise RecordError("there is no answer after the last search")
    thought, answer = _turn(turns[rest[0]], rest[0], tags.ANSWER)
    accuracy = ext.get("response_acc")
    if accuracy is not None and not isinstance(accuracy, bool | int | float):
        raise RecordError(f"ext.response_acc is {accuracy!r}, no number")
    return Trajectory(
        turns[asked[0]][1].strip(), Transcript(tuple(searches), thought, answer),
        None if accuracy is None else float(accuracy),
    )  # fmt: skip


def blanks(text: str, answer: str) -> int:
    """Return how many masks a user's text has, without those that only its instruction names.

    These are the masks that an answer fills if it repeats the paragraph; if the answer has another form, all masks are
    counted."""
    literals = text.split(tags.MASK)[:-1]
    if not literals or not answer.startswith(literals[0]):
        return text.count(tags.MASK)
    first, *others = literals
    filled, place = 1, len(first)
    for literal in others:  # a filled mask is not empty, so the next literal stands further on
        found = answer.find(literal, place + 1)
        if found < 0:
            break
        filled, place = filled + 1, found + len(literal)
    return filled


def read_lines(path: Path | str, reader: Callable[[Json], T]) -> Iterator[T | RecordError]:
    """Yield each line as `reader` reads it, or a RecordError that says where and why it could not be read."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name one with an official record a line")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield reader(parse_json(line))
                except ValueError as error:
                    yield RecordError(f"{path}, line {number}: {error}")


def _fields(record: Json, **types: type) -> list[Json]:
    if not isinstance(record, dict):
        raise RecordError(f"a JSON object with {sorted(types)} is needed, got {str(record)[:60]!r}")
    for name, kind in types.items():
        if not isinstance(record.get(name), kind) or (kind is int and isinstance(record[name], bool)):
            raise RecordError(f"{name} is {str(record.get(name))[:60]!r}, {kind.__name__} is needed")
    return [record[name] for name in types]


def _turn(turn: list[str], place: int, kind: tuple[str, str]) -> tuple[str, str]:
    """Return (thought, content) of an assistant's text: a think block or none, then a block of `kind`."""
    role, text = turn
    # Check first that the block ends: the pattern alone would look for its end from each place where it may begin.
    wanted = text.rstrip().endswith(kind[1]) and re.fullmatch(
        rf"\s*(?:<think>(.*?)</think>)?\s*{re.escape(kind[0])}(.*){re.escape(kind[1])}\s*", text, re.DOTALL
    )
    if role != "assistant" or not wanted:
        raise RecordError(f"message {place} ({role}) is no {kind[0]} turn of the assistant: {text[:60]!r}")
    return (wanted[1] or "").strip(), wanted[2].strip()


def _queries(message: JsonObject, place: int) -> str:
    call = message.get("function_call")
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ValueError as error:
            raise RecordError(f"message {place}: function_call.arguments {error}") from error
    queries = arguments.get("queries") if isinstance(arguments, dict) else None
    if not isinstance(queries, list) or not queries or not all(isinstance(q, str) and q.strip() for q in queries):
        raise RecordError(f"message {place}: function_call.arguments has no list of queries")
    return QUERY_SEPARATOR.join(" ".join(query.split()) for query in queries)


def _hits(content: str, place: int) -> tuple[interface.Hit, ...]:
    """Return the information as one passage, or () if nothing was found.

    Title and text are cut at its first ': ', so that an observation shows it word for word; without one the title is
    'Results'."""
    inside = re.fullmatch(r"\s*<information>(.*)</information>\s*", content, re.DOTALL)
    if not inside:
        raise RecordError(f"message {place} holds no <information> block: {content[:60]!r}")
    text = inside[1].replace("\n", " ").strip()
    if text in ("", prompt.NOTHING_FOUND):
        return ()
    title, colon, rest = text.partition(": ")
    return (interface.Hit(-1, -1, title, rest, 0.0) if colon else interface.Hit(-1, -1, "Results", text, 0.0),)
