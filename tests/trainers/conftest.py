"""A workdir as prepare leaves it, small enough for seconds, made without TensorFlow: the trainers read files, not
prep."""

import json
import random
import shutil
from pathlib import Path

import pytest

from benchmarks.drills.toy import small_config
from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build
from masksearch_jax.text import prompt, tags
from masksearch_jax.text import tokenizer as tokenizer_lib

_FIRST = "Karn Tolm Vesh Brad Quil Nost Pell Gram Hund Jask Lorn Mirt".split()
_SECOND = "Velith Dorvan Keshan Orland Pirael Sutter Wexham Yarrow".split()
_SPLITS = {"train": 40, "validation": 10, "test": 10}


def _facts(rng: random.Random, split: str, names: list[str]) -> list[tuple[str, str, list[str]]]:
    """(title, text, maskable strings) of articles in pairs: what one says of the other, the other says back."""
    articles = []
    for person, city in zip(names[0::2], names[1::2], strict=True):
        year = str(rng.randint(1000, 1999))
        articles.append((person, f"{person} was born in {city} in {year}.", [city, year]))
        articles.append((city, f"{city} is the birthplace of {person} since {year}.", [person, year]))
    return articles


def _task(passage: records.Passage, spans: list[str], epoch: int, tokenizer) -> records.Task:
    text = passage.text
    for span in spans:
        text = text.replace(span, tags.MASK)
    found = sorted(spans, key=passage.text.index)
    return records.Task(
        id=f"{passage.id}.{epoch}.{len(found)}",
        kind="ramp",
        split=passage.split,
        prompt=tokenizer.encode(prompt.ramp_prompt(text)),
        targets=tokenizer.encode(" " + "; ".join(found)),
        answer_form="spans",
        answers=[[span] for span in found],
        span_kinds=["number" if span.isdigit() else "link" for span in found],
        text=text,
        paragraph=passage.text,
        title=passage.title,
        passage_id=passage.id,
        article_id=passage.article_id,
    )


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    """W with W/data: 60 articles in pairs, two epochs of one- and two-mask tasks, three indices."""
    workdir = tmp_path_factory.mktemp("made")
    data, rng = workdir / "data", random.Random(0)
    names = [f"{a} {b}" for a in _FIRST for b in _SECOND]
    rng.shuffle(names)
    passages, maskable = [], []
    for split, count in _SPLITS.items():
        for title, text, spans in _facts(rng, split, [names.pop() for _ in range(count)]):
            passages.append(records.Passage(len(passages), len(passages), title, text, split))
            maskable.append(spans)
    records.write(data / "passages.array_record", passages)
    train = [f" {p.text}" for p in passages if p.split == "train"]
    tokenizer = tokenizer_lib.train(train, data / "tokenizer.model", vocab_size=400)
    for split in _SPLITS:
        own = [(p, s) for p, s in zip(passages, maskable, strict=True) if p.split == split]
        for epoch in range(2 if split == "train" else 1):
            one = [_task(p, [s[(epoch + p.id) % 2]], epoch, tokenizer) for p, s in own]
            two = [_task(p, s, epoch, tokenizer) for p, s in own]
            for masks, tasks in ((1, one), (2, two)):
                records.write(data / "tasks" / split / f"ramp_{masks}" / f"epoch_{epoch}.array_record", tasks)
    digits = [tokenizer.id(digit) for digit in "0123456789"]
    (data / "augment.json").write_text(json.dumps({"groups": [digits]}))
    for index, splits in (("train", ["train"]), ("validation", ["train", "validation"]), ("all", list(_SPLITS))):
        held = [p for p in passages if p.split in splits]
        build.build_index(data / "index" / index, held, {"encoder": "lexical", "index": "exact", "dims": 512})
    (data / "annotated").mkdir()
    (data / "annotated" / "tasks.json").write_text(json.dumps({"instruction": "", "question_instruction": ""}))
    (data / "manifest.json").write_text("{}")
    (data / "report.json").write_text("{}")
    return workdir


@pytest.fixture
def workdir(_made, tmp_path) -> Path:
    """A fresh copy of the made workdir."""
    shutil.copytree(_made, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def cfg():
    return small_config()
