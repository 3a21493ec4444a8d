import dataclasses

from masksearch_jax.data.records import Task
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.teachers import copy_rule

TEXT = "Karn Velith was born on 3 May 1500 in [mask]. She founded [mask] before the war."
TASK = Task(
    id="7.0.2", kind="ramp", split="test", prompt=[], targets=[], answer_form="spans",
    answers=[["Tolm Dorvan"], ["Vesh Pirael"]], span_kinds=["link", "link"], text=TEXT,
    paragraph=TEXT.replace("[mask]", "Tolm Dorvan", 1).replace("[mask]", "Vesh Pirael"),
    title="Karn Velith (writer)", passage_id=7, article_id=9,
)  # fmt: skip


class Found:
    """Gives the same passages to each query, and keeps the queries."""

    fingerprint = "found"

    def __init__(self, *texts):
        self.hits, self.queries = [Hit(1, 1, "A Life", text, 1.0) for text in texts], []

    def search(self, queries, k):
        self.queries += queries
        return [self.hits[:k] for _ in queries]


def show(hits):
    return " ".join(hit.text for hit in hits)


def test_the_words_before_the_mask_lead_to_the_answer():
    shown = "In 1500 Orla Ban was born in Tolm Dorvan and founded Vesh Pirael. Brad Orland lived there."
    assert copy_rule.copied(shown, "and [mask] was born in ") == "Tolm Dorvan"
    assert copy_rule.copied(shown, "Later she founded ") == "Vesh Pirael"
    assert copy_rule.copied(shown, "nothing of it") == "1500"  # the first one, where no word leads to any
    assert copy_rule.copied("no name at all", "in ") == ""


def test_dates_and_numbers_are_copied_whole():
    assert copy_rule.copied("He died on 3 May 1500, aged 71.", "who died on ") == "3 May 1500"
    assert copy_rule.copied("He died on May 3, 1500, aged 71.", "who died on ") == "May 3, 1500"
    assert copy_rule.copied("It has 1,234.5 hectares.", "an area that has ") == "1,234.5"


def test_each_mask_is_searched_by_the_name_of_its_article_and_scored():
    library = Found("She was born in Tolm Dorvan.", "Brad Orland founded a school.")
    (read,) = copy_rule.measure([TASK], library, 2, show)
    assert [q.text for q in library.queries] == ["Karn Velith", "Karn Velith"]
    assert {(q.passage_id, q.article_id) for q in library.queries} == {(7, 9)}  # its source is kept from it
    assert read == copy_rule.Read("7.0.2", found=0.5, recall=0.5)
    one = dataclasses.replace(TASK, text=TEXT.replace("[mask] before", "Vesh Pirael before"), answers=TASK.answers[:1])
    assert [r.found for r in copy_rule.measure([TASK, one], library, 1, show)] == [0.5, 1.0]
