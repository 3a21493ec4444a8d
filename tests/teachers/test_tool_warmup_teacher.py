"""The teacher of tool warm-up tasks: one search for each article, in order, and only what was shown is quoted."""

import dataclasses

from masksearch_jax.data import records
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.teachers import mask_teacher, query_writers, tool_warmup_teacher
from masksearch_jax.text import tokenizer as tokenizer_lib

ARTICLES = {"Karn Velith": "Karn Velith was born in Ostrom.", "Brad Keshan": "Brad Keshan wrote a book."}
CFG = mask_teacher.TeacherConfig(
    styles={"title": 1.0, "passage": 0.0, "associated": 0.0}, retry=0.5, attempts=2, evidence=0, evidence_match=0,
    hits=1, observation_tokens=64, total_tokens=400, seed=0,
)  # fmt: skip


class Titles:
    """Finds the article of a title, and notes what was asked."""

    def __init__(self, articles):
        self.articles, self.asked = articles, []

    def search(self, queries, k):
        self.asked += [query.text for query in queries]
        return [
            [Hit(0, 0, title, text, 1.0) for title, text in self.articles.items() if query.text.startswith(title)]
            for query in queries
        ]


def task(tokenizer, answers, titles) -> records.Task:
    cues = ("was born", "wrote a")[: len(titles)]
    text = " ".join(f"Look up {title}: {cue}" for title, cue in zip(titles, cues, strict=True))
    return records.Task(
        id="train/tool_warmup/1", kind="tool_warmup", split="train", prompt=tokenizer.encode(f" {text}"), targets=[],
        answer_form="spans", answers=[[answer] for answer in answers], span_kinds=["quote"] * len(answers), text=text,
        paragraph="", title="", passage_id=-1, article_id=-1, supporting=list(titles),
        details={
            "cues": "\n".join(cues), "queries": "\n".join(map(" ".join, zip(titles, cues, strict=True))),
        },
    )  # fmt: skip


def test_articles_are_searched_by_title_and_quoted_in_order(tmp_path):
    tokenizer = tokenizer_lib.train([f" {t}: {a}" for t, a in ARTICLES.items()] * 20, tmp_path / "t.model", 320)
    two = task(tokenizer, ["born in Ostrom", "a book"], ["Karn Velith", "Brad Keshan"])
    searcher = Titles(ARTICLES)
    (outcome,) = tool_warmup_teacher.synthesize([two], searcher, tokenizer, query_writers.Associations(), CFG)
    assert searcher.asked == ["Karn Velith was born", "Brad Keshan wrote a"] and two.task_name == "tool_warmup"
    made = outcome.demonstration
    written = tokenizer.decode([i for i, own in zip(made.ids, made.trainable, strict=True) if own])
    assert written.count("<search>") == 2 and written.endswith("<answer> born in Ostrom; a book</answer>")
    assert "<think> was born; wrote a</think>" in written and "<think> wrote a</think>" in written
    (quoting,) = tool_warmup_teacher.synthesize(
        [two], searcher, tokenizer, query_writers.Associations(), dataclasses.replace(CFG, evidence=2)
    )
    thought = "<think> was born born in Ostrom; wrote a a book</think>"
    assert tokenizer.decode(quoting.demonstration.ids) == tokenizer.decode(made.ids).replace(
        "<answer>", f"{thought}<answer>"
    )
    assert made.ids[: len(two.prompt)] == two.prompt and not any(made.trainable[: len(two.prompt)])


def test_what_was_not_shown_is_not_taught(tmp_path):
    tokenizer = tokenizer_lib.train([f" {t}: {a}" for t, a in ARTICLES.items()] * 20, tmp_path / "t.model", 320)
    wrong = task(tokenizer, ["a river"], ["Brad Keshan"])
    lost = task(tokenizer, ["a book"], ["Nobody"])
    found = list(
        tool_warmup_teacher.synthesize([wrong, lost], Titles(ARTICLES), tokenizer, query_writers.Associations(), CFG)
    )
    assert [outcome.rejected for outcome in found] == ["miss", "miss"]
