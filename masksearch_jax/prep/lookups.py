"""Lookups: tasks that teach tags and search tool, and nothing of masks or questions.

Enters: the passages of a corpus. Leaves: annotated/lookup_<split>.tfrecord (ramp.QUESTION), the source of the SeqIO
task `lookup`. A lookup names one or two articles and, for each, a few words of its text; the answer is the words that
follow them. It is what a policy is taught before either stage where no instruct model is at hand: the base of every row
of the table of methods. As such a model takes a request in any wording, a lookup comes in one of many, some without a
verb, and half of them with a sentence of another passage in front.
"""

import contextlib
import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from masksearch_jax.data import records
from masksearch_jax.prep import tasks
from masksearch_jax.prep.splits import SPLITS
from masksearch_jax.text import tags

_WORD = re.compile(r"\S+")
_END = re.compile(r"[.!?,;:]+$")
_CUE = 2  # words that say where to quote from
_CONTEXT_SHARE = 0.5
_WORDINGS = (
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
)
_MOST = 3  # words to quote


@dataclasses.dataclass(frozen=True)
class _Asked:
    passage: records.Passage
    cue: str
    words: str


def annotate(passages: Iterable[records.Passage], seed: int, data_dir: Path) -> Counter[str]:
    """Writes the lookups of each split and returns their numbers."""
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        files = {split: str(tasks.lookup_file(data_dir, split)) for split in SPLITS}
        writers = {split: stack.enter_context(tf.io.TFRecordWriter(file)) for split, file in files.items()}
        for fields in make(passages, seed):
            counts[fields["split"]] += 1
            writers[fields["split"]].write(tasks.example(fields))
    return counts


def make(passages: Iterable[records.Passage], seed: int) -> Iterator[dict[str, Any]]:
    """Yields the fields of ramp.QUESTION of one lookup a passage; every second one asks for the passage before as well,
    where that is of the same split. Passages that are too short to quote from give none. extra: the cues, as a teacher
    needs them.

    Drawn by (seed, passage id) and the passage before alone.
    """
    before: dict[str, _Asked] = {}
    for passage in passages:
        rng = random.Random(f"{seed} lookup {passage.id}")
        quote = _quote(passage, rng)
        if quote is None:
            continue
        asked = [_Asked(passage, *quote)]
        last = before.get(passage.split)
        if passage.id % 2 and last:
            asked.insert(0, last)
        before[passage.split] = asked[-1]
        said = " ".join(rng.choice(_WORDINGS).format(title=one.passage.title, cue=one.cue) for one in asked)
        if last and len(asked) == 1 and rng.random() < _CONTEXT_SHARE:
            said = f"{_sentence(last.passage)} {said}"
        yield {
            "id": str(passage.id),
            "split": passage.split,
            "question": tags.neutralise(said),
            "answers": [tags.neutralise(one.words) for one in asked],
            "supporting": [one.passage.title for one in asked],
            "extra": json.dumps({"details": {"cues": "\n".join(one.cue for one in asked)}}),
        }


def _sentence(passage: records.Passage) -> str:
    return re.split(r"(?<=[.!?])\s", passage.text, maxsplit=1)[0]


def _quote(passage: records.Passage, rng: random.Random) -> tuple[str, str] | None:
    """(cue, the words that follow it), both within one clause; None if no place has room for them."""
    words = [match.group() for match in _WORD.finditer(passage.text)]
    places = []
    for at in range(len(words) - _CUE):
        if any(_END.search(word) for word in words[at : at + _CUE]) or tags.SPAN_SEPARATOR in words[at + _CUE]:
            continue
        cue = " ".join(words[at : at + _CUE])
        if passage.text.count(cue) == 1:
            places.append(at)
    if not places:
        return None
    at = rng.choice(places)
    quoted = []
    for word in words[at + _CUE : at + _CUE + _MOST]:
        quoted.append(_END.sub("", word))
        if _END.search(word):
            break
    answer = " ".join(quoted)
    return (" ".join(words[at : at + _CUE]), answer) if answer and tags.SPAN_SEPARATOR not in answer else None
