"""The tool_warmup tasks, which teach the tags and the search tool, and nothing of masks or of benchmark questions.

Enters: the passages of a corpus. Leaves: annotated/tool_warmup_<split>.tfrecord (ramp.QUESTION), the source of the
SeqIO task `tool_warmup`. A task is of one of two kinds. 'quote' names an article and two of its words, and asks for the
name, date or number that follows them. 'source' gives those words with what follows, and asks for the title of the
article. Where no instruct model is at hand, a policy is trained on these tasks before either stage; all methods that
are compared start from it. Since an instruct model takes a request in any wording, these tasks come in many wordings,
some without a verb. One in four joins two requests, and half of the others have a sentence of another passage in front.
"""

import contextlib
import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow as tf

from masksearch_jax.data import records
from masksearch_jax.prep.spans import candidates
from masksearch_jax.prep.splits import SPLITS
from masksearch_jax.prep.tasks import registry
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import tags

KINDS = ("quote", "source")
# Part of the key of each task's draw, and nothing else. Another word would draw other tasks from the same seed.
_STREAM = "lookup"

_END = re.compile(r"(?<![.!?,;:])[.!?,;:]+$")
_OPENING = "\"'“‘([ "
_CUE = 2  # the number of words that tell where to quote from
_PAIR_SHARE = 0.25  # of the tasks, which ask for two articles, one after the other
_CONTEXT_SHARE = 0.5
_WORDINGS = {
    "quote": (
        "Look up {title} and quote: {cue}",
        "Look up {title}: {cue}",
        "{title}: {cue}",
        "{title} {cue}",
        "{cue} ({title})",
        "In the article on {title}, the words after {cue}.",
        "Quote what follows {cue} in {title}.",
        "Of {title}, {cue}",
        "{title} is the article. {cue} is the place.",
        "Go on from {cue}, of {title}.",
        "What follows {cue} in the article on {title}?",
        "Who or what stands after {cue} in {title}?",
        "When, where, who: {title}, {cue}?",
    ),
    "source": (
        "Look up the article that says: {cue} {words}",
        "Look up, for its title: {cue} {words}",
        "Title: {cue} {words}",
        "{cue} {words}",
        "{words} ({cue})",
        "The article with the words {cue} {words}.",
        "Name the source of {cue} {words}.",
        "Of {words}, {cue}",
        "{cue} {words} is the place. Find the article.",
        "Some article says {cue} {words}.",
        "Which article says {cue} {words}?",
        "What is the title of the article with {cue} {words}?",
        "Where does it say {cue} {words}?",
    ),
}


@dataclasses.dataclass(frozen=True)
class _Place:
    """A place in a passage that a task can ask for. cue, words: neighbours within one clause; the cue occurs once."""

    passage: records.Passage
    cue: str
    words: str


@dataclasses.dataclass(frozen=True)
class _Request:
    """One request. said: its text. query, cue: what the teacher searches for and uses in its plan."""

    said: str
    query: str
    cue: str
    answer: str
    title: str


def _request(kind: str, place: _Place, rng: random.Random) -> _Request:
    title = place.passage.title
    said = rng.choice(_WORDINGS[kind]).format(title=title, cue=place.cue, words=place.words)
    name, answer = (title, place.words) if kind == "quote" else (place.words, title)
    return _Request(said, f"{name} {place.cue}", place.cue, answer, title)


def annotate(passages: Iterable[records.Passage], seed: int, data_dir: Path) -> Counter[str]:
    """Write the tool_warmup tasks of each split; return their counts."""
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        files = {split: str(registry.tool_warmup_file(data_dir, split)) for split in SPLITS}
        writers = {split: stack.enter_context(tf.io.TFRecordWriter(file)) for split, file in files.items()}
        for fields in warmup_tasks(passages, seed):
            counts[fields["split"]] += 1
            writers[fields["split"]].write(registry.example(fields))
    return counts


def warmup_tasks(passages: Iterable[records.Passage], seed: int) -> Iterator[JsonObject]:
    """Yield the fields of ramp.QUESTION of each passage's tasks, one of each kind for which it has a place.

    Some tasks also ask for what the passage before was asked for, which is of the same split. extra: the teacher's
    query and cue for each article in turn. The draw depends only on (seed, passage id, kind) and on the passage before.
    """
    before: dict[str, tuple[records.Passage, _Request]] = {}
    for passage in passages:
        found, last, latest = _places(passage), before.get(passage.split), None
        for kind in KINDS:
            rng = random.Random(f"{seed} {_STREAM} {passage.id} {kind}")
            # A request that contains the title it asks for would need no search.
            open_ = [
                p
                for p in found
                if kind == "quote" or not answer_metrics.contains(f"{p.cue} {p.words}", [passage.title])
            ]
            if not open_:
                continue
            request = _request(kind, rng.choice(open_), rng)
            latest = latest or request
            parts, said = [request], request.said
            if last and not answer_metrics.contains(f"{_sentence(last[0])} {last[1].said}", [request.answer]):
                if rng.random() < _PAIR_SHARE:
                    parts, said = [last[1], request], f"{last[1].said} {said}"
                elif rng.random() < _CONTEXT_SHARE:
                    said = f"{_sentence(last[0])} {said}"
            details = {"queries": [part.query for part in parts], "cues": [part.cue for part in parts]}
            yield {
                "id": f"{passage.id}.{kind}",
                "split": passage.split,
                "question": tags.neutralise(said),
                "answers": [tags.neutralise(part.answer) for part in parts],
                "supporting": [part.title for part in parts],
                "extra": json.dumps({"details": {name: "\n".join(values) for name, values in details.items()}}),
            }
        if latest:
            before[passage.split] = passage, latest


def _sentence(passage: records.Passage) -> str:
    return re.split(r"(?<=[.!?])\s", passage.text, maxsplit=1)[0]


def _places(passage: records.Passage) -> list[_Place]:
    """Return the places where a salient span follows _CUE words within a clause."""
    places = []
    for span in candidates.find(passage.text, passage.title, [], [], []):
        before = passage.text[: span.start].rstrip(_OPENING).split()[-_CUE:]
        cue, words = " ".join(before), passage.text[span.start : span.end]
        if len(before) < _CUE or any(_END.search(word) for word in before):
            continue
        if tags.SPAN_SEPARATOR not in f"{words}{passage.title}" and passage.text.count(cue) == 1:
            places.append(_Place(passage, cue, words))
    return places
