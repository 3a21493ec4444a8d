"""Hand-made annotated passages, so that the SeqIO tests need neither a dump nor a span finder."""

import dataclasses
import random

import pytest

from masksearch_jax.text import tokenizer

WORDS = ["Karv", "São", "naïve", "日本", "river", "born", "1984", "x", "of", "Velith", "Ωmega", "town"]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A passage and its candidate spans in characters."""

    id: int
    split: str
    text: str
    spans: list[tuple[int, int]]
    kinds: list[str]

    def fields(self) -> dict:
        """The fields of ramp.FEATURES; byte offsets are counted here by encoding, not by the code under test."""
        starts = [len(self.text[:start].encode()) for start, _ in self.spans]
        ends = [len(self.text[:end].encode()) for _, end in self.spans]
        return {
            "id": self.id, "article_id": self.id // 3, "title": f"Title {self.id // 3}", "split": self.split,
            "text": self.text, "starts": starts, "ends": ends, "char_starts": [s for s, _ in self.spans],
            "char_ends": [e for _, e in self.spans], "kinds": self.kinds,
        }  # fmt: skip


def make_passages(count: int, split: str, seed: int = 0, first: int = 0) -> list[Annotated]:
    """Passages of 30 words with 0 to 7 spans of one to three words, which overlap now and then."""
    rng = random.Random(seed)
    made = []
    for id in range(first, first + count):
        words = [rng.choice(WORDS) for _ in range(30)]
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        spans = set()
        for _ in range(id % 8):
            begin = rng.randrange(28)
            end = begin + rng.randrange(1, 3)
            spans.add((starts[begin], starts[end] - 1))
        spans = sorted(spans)
        kinds = [rng.choice(["link", "date", "name"]) for _ in spans]
        made.append(Annotated(id, split, " ".join(words), spans, kinds))
    return made


@pytest.fixture(scope="session")
def annotated():
    """{split: passages}; some have too few spans for any task."""
    return {"train": make_passages(120, "train"), "test": make_passages(40, "test", seed=1, first=120)}


@pytest.fixture(scope="session")
def prepared(annotated, tmp_path_factory):
    """A data directory as prepare leaves it before the export: annotated passages, questions, tokenizer, settings."""
    import tensorflow as tf

    from masksearch_jax.prep.tasks import registry

    directory = tmp_path_factory.mktemp("data")
    (directory / "annotated").mkdir()
    for split, passages in annotated.items():
        with tf.io.TFRecordWriter(str(registry.passage_file(directory, split))) as writer:
            for passage in passages:
                writer.write(registry.example(passage.fields()))
    question = {
        "id": "q7", "split": "test", "question": "Where was Karv born?", "answers": ["São Velith", "Velith"],
        "supporting": ["Karv", "São Velith"],
    }  # fmt: skip
    with tf.io.TFRecordWriter(str(registry.question_file(directory, "test"))) as writer:
        writer.write(registry.example(question))
    tokenizer.train([p.text for p in annotated["train"]], directory / "tokenizer.model", vocab_size=320)
    registry.TaskSettings(
        seed=3,
        epochs={"train": 3, "test": 1},
        answer_form="spans",
        instruction="",
        question_instruction="Answer briefly.",
        span_weights={},
        passages={split: len(passages) for split, passages in annotated.items()},
        questions={"test": 1},
    ).save(directory / "annotated")
    return directory
