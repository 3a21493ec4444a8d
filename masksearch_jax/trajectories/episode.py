"""One finished episode as the database holds it, and its values per token as bytes.

Training and evaluation both write this form, so that one list, one filter and one page show either.
"""

import dataclasses
import io
import json
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import tags

# The parts of an episode that are read only when it is opened. They are kept as compressed JSON.
BODY = ("text", "golds", "spans", "span_scores", "span_hits", "turns")
_TITLE, _AROUND = 200, 28  # characters of the task that a list shows; of its beginning, if the first mask comes late


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode.

    source: the stage or the evaluation that it is from ('dapo', 'evaluate/sft'). step: the iteration in which it was
    sampled, 0 in an evaluation. version: the policy version that wrote it, None in an evaluation. group, sample: which
    prompt, and which of its samples; in an evaluation, the place of the task, and 0. score: the answer reward, or
    recall in an evaluation, in [0, 1]; None without a verdict of the judge. reward, format, length: the reward of
    training and its parts; an evaluation has only format. f1, em: of an evaluation.
    hit: share of masks of which an observation held an accepted answer. searches, tokens: how many were executed, and
    written by the policy. text: the task. golds: accepted answers of each mask. spans: what was filled in, None without
    an answer of the asked form. span_scores, span_hits: score of each span, and whether its answer was read. turns:
    action, text, query, passages, observation and error of each turn.
    """

    source: str
    step: int
    version: int | None
    group: int
    sample: int
    task_id: str
    task: str
    stop: str
    answer: str
    score: float | None
    format: float | None
    searches: int
    tokens: int
    hit: float | None
    text: str
    golds: Sequence[Sequence[str]]
    spans: Sequence[str] | None
    span_scores: Sequence[float]
    span_hits: Sequence[bool]
    turns: Sequence[JsonObject]
    reward: float | None = None
    length: float | None = None
    f1: float | None = None
    em: float | None = None

    @property
    def title(self) -> str:
        """The beginning of the task, for lists; if its first mask comes late, how it begins and what is there."""
        text = " ".join(self.text.split())
        mask = text.find(tags.MASK)
        if mask > 2 * _AROUND:
            beginning = text[:_AROUND].rpartition(" ")[0] or text[:_AROUND]
            text = f"{beginning} … {text[mask - _AROUND :].partition(' ')[2]}"
        return text[:_TITLE]

    def body(self) -> bytes:
        """Return the fields of BODY as compressed JSON."""
        return zlib.compress(json.dumps({name: getattr(self, name) for name in BODY}).encode())


def read_body(data: bytes) -> JsonObject:
    """Return the fields of BODY. Raises ValueError for damaged bytes."""
    try:
        found: JsonObject = parse_json(zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(f"the episode is damaged: {error}") from error
    return found


def search_text(task_id: str, answer: str, body: Mapping[str, object]) -> str:
    """Return what full-text search finds an episode by: task, golds, everything written and everything read."""
    parts = [task_id, str(body["text"]), answer]
    golds: Sequence[Sequence[str]] = body["golds"]  # type: ignore[assignment]  # as `Episode` says
    turns: Sequence[JsonObject] = body["turns"]  # type: ignore[assignment]
    parts += [gold for accepted in golds for gold in accepted]
    for turn in turns:
        parts += [turn["text"], turn["observation"]]
    return "\n".join(parts)


def pack_arrays(arrays: Mapping[str, np.ndarray], texts: Sequence[str] | None = None) -> bytes:
    """Return arrays, one value per token, as compressed bytes. texts: the text of each token."""
    found = dict(arrays)
    if texts is not None:
        found["texts"] = np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **found)
    return file.getvalue()


def unpack_arrays(data: bytes) -> JsonObject:
    """Return {name: list of values} of what `pack_arrays` wrote, ready for JSON; what is not finite is None."""
    found: JsonObject = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        for name in file.files:
            values = file[name]
            if name == "texts":
                found[name] = parse_json(values.tobytes())
            elif values.dtype.kind == "f":
                found[name] = [round(value, 5) if np.isfinite(value) else None for value in values.tolist()]
            else:
                found[name] = values.astype(int).tolist()
    return found
