"""The worked examples of questions are what the toy's question writer and the teacher make: none is a benchmark's."""

import json

import pytest

from masksearch_jax import toywiki
from masksearch_jax.data.records import Task
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.teachers import mask_teacher, query_writers, question_teacher
from masksearch_jax.text import prompt, question_examples
from masksearch_jax.text import tokenizer as tokenizer_lib


class Articles:
    """Finds the article whose title a query holds."""

    fingerprint = "articles"

    def __init__(self, texts):
        self._texts = texts

    def search(self, queries, k):
        return [[Hit(0, 0, t, text, 1.0) for t, text in self._texts.items() if t in q.text][:k] for q in queries]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Worked examples of the training questions of a toy of 200 articles, as few_shot words them."""
    folder = tmp_path_factory.mktemp("toy")
    asked = json.loads(toywiki.generate(folder, entities=200, seed=0).questions.read_text())
    asked = [one for one in asked if one["split"] == "train"]
    texts = {title: "".join(sentences) for one in asked for title, sentences in one["context"]}
    tokenizer = tokenizer_lib.train([f" {t}: {text}" for t, text in texts.items()], folder / "t.model", 600)
    tasks = [
        Task(
            id=one["_id"], kind="qa", split="train", prompt=tokenizer.encode(prompt.question_prompt(one["question"])),
            targets=[], answer_form="whole", answers=[[one["answer"]]], span_kinds=["answer"], text=one["question"],
            paragraph="", title="", passage_id=-1, article_id=-1,
            supporting=list(dict.fromkeys(title for title, _ in one["supporting_facts"])),
        )
        for one in asked
    ]  # fmt: skip
    cfg = mask_teacher.TeacherConfig(
        styles={"title": 1.0}, retry=0.0, attempts=1, evidence=0, evidence_match=0, hits=1, observation_tokens=1000,
        total_tokens=4000, seed=0, wording="sentences",
    )  # fmt: skip
    found = question_teacher.synthesize(tasks, Articles(texts), tokenizer, query_writers.Associations(), cfg)
    return [
        f"{task.text}\n{tokenizer.decode(outcome.demonstration.ids[len(task.prompt) :])}"
        for task, outcome in zip(tasks, found, strict=True)
        if outcome.demonstration
    ]


def test_examples_are_the_toys_questions_as_the_teacher_answers_them(made):
    assert len(question_examples.EXAMPLES) >= 3 and set(question_examples.EXAMPLES) <= set(made)
    assert len(set(question_examples.EXAMPLES)) == len(question_examples.EXAMPLES)
    # One asks for a name and one for a date; both read one article after the other.
    assert all(one.count("<search>") == 2 for one in question_examples.EXAMPLES)
