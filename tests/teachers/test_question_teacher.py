"""The teacher of questions on hand-made articles: what it asks, what it accepts, what it never writes."""

import dataclasses

import pytest

from masksearch_jax.data.records import Task
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.teachers import mask_teacher, query_writers, question_teacher
from masksearch_jax.text import prompt, tags
from masksearch_jax.text import tokenizer as tokenizer_lib

QUESTION = "Who is the founder of the birthplace of Karn Velith?"
TASK = Task(
    id="train/qa/1", kind="qa", split="train", prompt=[], targets=[], answer_form="whole", answers=[["Vesh Pirael"]],
    span_kinds=["answer"], text=QUESTION, paragraph="", title="", passage_id=-1, article_id=-1,
    supporting=["Karn Velith", "Tolm (city)"],
)  # fmt: skip
PERSON = Hit(1, 1, "Karn Velith", "Karn Velith was born in Tolm.", 1.0)
CITY = Hit(2, 2, "Tolm (city)", "Tolm was founded by Vesh Pirael.", 1.0)
OTHER = Hit(3, 3, "Brad Orland", "Brad Orland met Vesh Pirael.", 1.0)


class Library:
    """Finds an article by its name, and another one, which states the answer but supports nothing, by any other."""

    fingerprint = "library"

    def __init__(self, fallback=OTHER):
        self.queries, self._fallback = [], fallback

    def search(self, queries, k):
        self.queries += [query.text for query in queries]
        assert all(query.passage_id == query.article_id == -1 for query in queries)  # nothing is excluded
        return [[self._one(query.text)] for query in queries]

    def _one(self, text):
        named = {"Karn Velith": PERSON, "Tolm": CITY}
        return next((hit for name, hit in named.items() if name in text), self._fallback)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f" {QUESTION} {hit.title}: {hit.text} Which was founded first?" for hit in (PERSON, CITY, OTHER)]
    return tokenizer_lib.train(texts * 20, tmp_path_factory.mktemp("questions") / "tokenizer.model", vocab_size=380)


def outcome(tokenizer, library, task=TASK, attempts=2, **styles):
    task = dataclasses.replace(task, prompt=tokenizer.encode(prompt.question_prompt(task.text)))
    cfg = mask_teacher.TeacherConfig(
        styles=styles or {"passage": 1.0}, retry=1.0, attempts=attempts, evidence=0, evidence_match=0, hits=1,
        observation_tokens=64, total_tokens=400, seed=0,
    )  # fmt: skip
    (found,) = question_teacher.synthesize([task], library, tokenizer, query_writers.Associations(), cfg)
    return found


def written(tokenizer, demonstration):
    """The turns of the policy."""
    text = tokenizer.decode([i for i, t in zip(demonstration.ids, demonstration.trainable, strict=True) if t])
    return text.replace(tags.SEARCH[1], tags.SEARCH[1] + "\n").split("\n")


def test_goals_go_from_the_name_outwards():
    assert question_teacher.goals(QUESTION, 2) == ["birthplace", "founder"]
    assert question_teacher.goals("When was the person born in Tolm Dorvan married?", 2) == ["born", "person married"]
    assert question_teacher.goals("who wrote it?", 2) == ["wrote", "wrote"] and question_teacher.goals(
        "who is it?", 1
    ) == [""]
    assert question_teacher.asked_names("Was Karn Velith older than Brad?") == ["Karn Velith", "Brad"]
    assert question_teacher.asked_names("Karn Velith is what?") == ["Karn Velith"]


def test_two_searches_one_article_after_the_other(tokenizer):
    library = Library()
    found = outcome(tokenizer, library).demonstration
    # The second subject is read in the first passage, and called as it is there, without its brackets.
    assert library.queries == ["Karn Velith birthplace", "Tolm founder"]
    turns = written(tokenizer, found)
    assert [prompt.parse_turn(turn).kind for turn in turns] == ["search", "search", "answer"]
    assert turns[0].startswith("<think> birthplace; founder</think>") and turns[1].startswith("<think> founder</think>")
    assert prompt.parse_turn(turns[-1]).content == "Vesh Pirael"
    assert (found.searches, found.masks, found.task_id) == (2, 1, "train/qa/1")
    assert tokenizer.encode(tokenizer.decode(found.ids)) == found.ids


def test_one_search_is_enough_where_it_shows_the_answer(tokenizer):
    city = dataclasses.replace(CITY, text="Tolm, birthplace of Karn Velith, was founded by Vesh Pirael.")
    task = dataclasses.replace(TASK, text="Who founded the birthplace of Karn?")
    assert outcome(tokenizer, Library(city), task).demonstration.searches == 1


def test_an_answer_in_an_article_that_supports_nothing_is_no_proof(tokenizer):
    task = dataclasses.replace(TASK, text="Who founded the birthplace of Karn?")
    assert outcome(tokenizer, Library(OTHER), task, attempts=1).rejected == "miss"
    # Nothing is known of what supports it: then the answer itself has to do.
    assert outcome(tokenizer, Library(OTHER), dataclasses.replace(task, supporting=[])).demonstration


def test_a_question_that_says_its_answer_needs_every_article(tokenizer):
    asked = "Which was founded first, Karn Velith or Tolm?"
    given = dataclasses.replace(TASK, text=asked, answers=[["Karn Velith"]])
    library = Library()
    assert outcome(tokenizer, library, given).demonstration.searches == 2
    assert library.queries[0].startswith("Karn Velith") and library.queries[1].startswith("Tolm")
    verdict = dataclasses.replace(given, answers=[["no"]])
    turns = written(tokenizer, outcome(tokenizer, Library(), verdict).demonstration)
    assert prompt.parse_turn(turns[-1]).content == "no" and len(turns) == 3
    # "no" stands in every other passage: one that shows it proves nothing.
    lonely = dataclasses.replace(verdict, supporting=["Karn Velith", "Hidden"])
    assert outcome(tokenizer, Library(), lonely, attempts=1).rejected == "miss"


def test_no_query_tells_the_answer(tokenizer):
    leaky = dataclasses.replace(TASK, answers=[["Tolm"]], supporting=["Karn Velith", "Tolm", "Brad Orland"])
    library = Library()
    assert outcome(tokenizer, library, leaky, title=0.5, passage=0.5).demonstration
    assert library.queries and not any("Tolm" in query for query in library.queries)


def test_settings_and_seed_decide_alone(tokenizer):
    first, second = (outcome(tokenizer, Library(), title=0.5, passage=0.5) for _ in range(2))
    assert first == second
    quiet = dataclasses.replace(TASK, text="who founded it?", supporting=[])
    assert outcome(tokenizer, Library(), quiet).rejected in ("", "miss")
    mute = dataclasses.replace(TASK, text="is it?")
    assert outcome(tokenizer, Library(), mute).rejected == "no_query"


def test_without_known_articles_the_answer_is_looked_for(tokenizer):
    """Any passage that states the answer will do; what the question says itself is left to RL."""
    alone = dataclasses.replace(TASK, supporting=[])
    found = outcome(tokenizer, Library(fallback=OTHER), dataclasses.replace(alone, text="Whom did Brad Orland meet?"))
    assert found.demonstration and found.demonstration.searches == 1
    assert outcome(tokenizer, Library(fallback=PERSON), alone, attempts=1).rejected == "miss"
    for text, answer in (("Was Karn Velith born in Tolm?", "yes"), ("Who is older, Karn Velith or Brad?", "Brad")):
        library = Library()
        given = dataclasses.replace(alone, text=text, answers=[[answer]])
        assert outcome(tokenizer, library, given).rejected == "no_articles" and not library.queries
