import dataclasses

import pytest

from masksearch_jax.data.records import Task
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.teachers import mask_context, mask_teacher, query_writers
from masksearch_jax.text import prompt, tags
from masksearch_jax.text import tokenizer as tokenizer_lib

TEXT = "Karn Velith was born on 3 May 1500 in [mask]. She founded [mask] before the war."
TASK = Task(
    id="7.0.2", kind="ramp", split="train", prompt=[], targets=[], answer_form="spans",
    answers=[["Tolm Dorvan"], ["Vesh Pirael"]], span_kinds=["link", "link"], text=TEXT,
    paragraph=TEXT.replace("[mask]", "Tolm Dorvan", 1).replace("[mask]", "Vesh Pirael"),
    title="Karn Velith", passage_id=7, article_id=7,
)  # fmt: skip
CITY = Hit(1, 1, "Tolm Dorvan", "Tolm Dorvan is the birthplace of Karn Velith.", 1.0)
HOUSE = Hit(2, 2, "Vesh Pirael", "Vesh Pirael was established by Karn Velith.", 1.0)
OTHER = Hit(3, 3, "Brad Orland", "Brad Orland met Karn Velith once.", 1.0)


class Library:
    """Answers by keyword, and with an unhelpful passage to a bare name."""

    fingerprint = "library"

    def __init__(self):
        self.queries = []

    def search(self, queries, k):
        self.queries += queries
        return [self._one(query.text) for query in queries]

    def _one(self, text):
        if "birthplace" in text or "Tolm" in text:
            return [CITY]
        return [HOUSE] if "established" in text or "Vesh" in text else [OTHER]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f" {TASK.paragraph}", f" {CITY.text}", f" {HOUSE.text}", f" {OTHER.text}"]
    return tokenizer_lib.train(texts * 20, tmp_path_factory.mktemp("oracle") / "tokenizer.model", vocab_size=380)


@pytest.fixture
def task(tokenizer):
    return dataclasses.replace(TASK, prompt=tokenizer.encode(prompt.ramp_prompt(TEXT)))


def config(**styles):
    return mask_teacher.TeacherConfig(
        styles=styles, retry=1.0, attempts=3, evidence=0, evidence_match=0, hits=1, observation_tokens=64,
        total_tokens=400, seed=0,
    )  # fmt: skip


def test_own_words_come_from_the_sentence_of_the_mask_nearest_first():
    assert mask_context.own_words(TEXT, 0) == ["born"]
    assert mask_context.own_words(TEXT, 1) == ["founded", "war"]
    assert "mask" not in mask_context.own_words(TEXT, 0) + mask_context.own_words(TEXT, 1)


def test_names_leave_function_words_and_months_out():
    assert mask_context.names("In May, the Karn Velith met Tolm.") == ["Karn Velith", "Tolm"]


def test_sub_goal_says_what_is_missing():
    assert mask_context.sub_goal(TEXT, 0).endswith("in")
    assert mask_context.sub_goal("[mask] was here.", 0) == "was here"
    assert mask_context.plan(TEXT, 0, 2) == f"{mask_context.sub_goal(TEXT, 0)}; {mask_context.sub_goal(TEXT, 1)}"
    assert mask_context.plan(TEXT, 1, 2) == mask_context.sub_goal(TEXT, 1)
    # What is to be read on from is quoted in full, over the end of a sentence if need be.
    assert mask_context.plan("Born 5, in [mask]. [mask] died.", 0, 2, leading=2) == "5, in; in [mask]."
    assert mask_context.plan("[mask] was here.", 0, 1, leading=2) == ""


def test_associations_learn_the_word_of_the_other_article(task):
    found = query_writers.fit_associations([task], Library())
    assert found.best(["nothing"]) == ""
    counted = query_writers.Associations()
    for _ in range(3):
        counted.add(["born"], ["birthplace", "city"])
        counted.add(["founded"], ["established", "city"])
    assert counted.best(["born"]) == "birthplace"  # 'city' stands everywhere and says nothing
    assert counted.best(["founded"]) == "established"


def test_the_subject_of_a_query_stands_in_the_passage():
    assert mask_context.subject_of("Silent Hill is a film by [mask].", "Silent Hill (film)", 0) == "Silent Hill"
    text = "In Karn Velith met [mask] and Bodr. Lelz lived in [mask] then."
    assert mask_context.subject_of(text, "History of Orland", 0) == "Karn Velith"
    assert mask_context.subject_of(text.replace("met [mask] and", "saw and met [mask], with"), "Orland", 0) == "Bodr"
    assert mask_context.subject_of(text, "Orland", 1) == "Lelz"
    # No name in the sentence: the first one of the passage; none at all: nothing to ask.
    assert mask_context.subject_of("He met [mask]. Lelz lived.", "Orland", 0) == "Lelz"
    assert mask_context.subject_of("He met [mask] then.", "Orland", 0) == ""
    hidden = dataclasses.replace(TASK, title="Orland", text="He met [mask] then.")
    nothing = query_writers.Associations()
    assert [query_writers.write_query(hidden, 0, style, nothing) for style in mask_teacher.STYLES[:3]] == [""] * 3
    assert query_writers.write_query(hidden, 0, "clue", nothing) == "He met  then"


def test_no_query_contains_the_answer(task):
    leaky = dataclasses.replace(task, title="Tolm Dorvan", text=TEXT.replace("was born", "of Tolm Dorvan was born"))
    associations = query_writers.Associations()
    for style in mask_teacher.STYLES:
        assert query_writers.write_query(leaky, 0, style, associations) == ""


def test_demonstration_is_what_an_episode_would_hold(task, tokenizer):
    associations = query_writers.Associations()
    for _ in range(3):
        associations.add(["born"], ["birthplace"])
        associations.add(["founded", "war"], ["established"])
        associations.add(["other"], ["word"])
    library = Library()
    (outcome,) = mask_teacher.synthesize([task], library, tokenizer, associations, config(associated=1.0))
    one = outcome.demonstration
    assert one.searches == 2 and one.masks == 2
    assert all(query.passage_id == 7 and query.article_id == 7 for query in library.queries)
    # Trainable tokens are turns in the strict grammar; the others are the prompt and the observations.
    text = tokenizer.decode([i for i, t in zip(one.ids, one.trainable, strict=True) if t])
    turns = text.replace(tags.SEARCH[1], tags.SEARCH[1] + "\n").split("\n")
    assert [prompt.parse_turn(turn).kind for turn in turns] == ["search", "search", "answer"]
    assert prompt.parse_turn(turns[-1]).content == "Tolm Dorvan; Vesh Pirael"
    read = tokenizer.decode([i for i, t in zip(one.ids, one.trainable, strict=True) if not t])
    assert "birthplace of Karn Velith" in read and "established by Karn Velith" in read
    # Encoding the whole text gives the ids of its parts: no drift at the joins.
    assert tokenizer.encode(tokenizer.decode(one.ids)) == one.ids


def test_the_last_thought_quotes_the_words_before_each_answer(task, tokenizer):
    here = Hit(1, 1, "Tolm Dorvan", "Brad met Tolm Dorvan. Karn Velith was born in Tolm Dorvan.", 1.0)
    library = Library()
    library._one = lambda text: [here if "birthplace" in text else HOUSE]
    associations = query_writers.Associations()
    for _ in range(3):
        associations.add(["born"], ["birthplace"])
        associations.add(["founded", "war"], ["established"])
        associations.add(["other"], ["word"])
    cfg = dataclasses.replace(config(associated=1.0), evidence=2)
    (outcome,) = mask_teacher.synthesize([task], library, tokenizer, associations, cfg)
    text = tokenizer.decode(outcome.demonstration.ids)
    said = "<think> 1500 in Tolm Dorvan; She founded Vesh Pirael</think><answer> Tolm Dorvan; Vesh Pirael</answer>"
    assert text.endswith(said)
    (outcome,) = mask_teacher.synthesize(
        [task], library, tokenizer, associations, dataclasses.replace(cfg, evidence_match=1)
    )
    # What was found on the house has no word before it that stands before its mask as well.
    assert outcome == mask_teacher.Outcome(task.id, None, "no_evidence")
    for wrong in ({"evidence": -1}, {"evidence_match": 3}):
        with pytest.raises(ValueError, match=r"synthesize\.evidence"):
            dataclasses.replace(cfg, **wrong)


def test_a_miss_is_followed_by_another_query_or_rejected(task, tokenizer):
    associations = query_writers.Associations()
    for _ in range(3):
        associations.add(["born"], ["birthplace"])
        associations.add(["founded", "war"], ["established"])
        associations.add(["other"], ["word"])
    both = config(title=0.5, associated=0.5)
    outcomes = {}
    for seed in range(6):
        (outcomes[seed],) = mask_teacher.synthesize(
            [task], Library(), tokenizer, associations, dataclasses.replace(both, seed=seed)
        )
    assert all(o.demonstration for o in outcomes.values())  # retry=1: it always comes to the good query
    assert {o.demonstration.searches for o in outcomes.values()} > {2}  # and some had to try twice
    (missed,) = mask_teacher.synthesize(
        [task], Library(), tokenizer, associations, dataclasses.replace(config(title=1.0), retry=0.0)
    )
    assert missed.demonstration is None and missed.rejected == "miss"


def test_a_search_that_does_not_help_is_followed_by_a_visit(task, tokenizer):
    """Of the first article that it found; what the visit shows may fill the mask, and it has to be read."""
    queries = []

    class Articles(Library):
        def search(self, asked, k):
            queries.extend((query.tool, query.text, [hit.title for hit in query.found]) for query in asked)
            return [self._read_on(query.text) if query.tool == "visit" else [OTHER] for query in asked]

        def _read_on(self, title):
            return [dataclasses.replace(one, title=title) for one in (CITY, HOUSE)]

    both = dataclasses.replace(config(title=1.0), tools=("search", "visit"), hits=2)
    (outcome,) = mask_teacher.synthesize([task], Articles(), tokenizer, query_writers.Associations(), both)
    assert queries[:2] == [("search", "Karn Velith", []), ("visit", "Brad Orland", ["Brad Orland"])]
    one = outcome.demonstration
    text = tokenizer.decode([i for i, t in zip(one.ids, one.trainable, strict=True) if t])
    assert "<visit> Brad Orland</visit>" in text and one.searches >= 1
    spoken = dataclasses.replace(both, wording="brief", shared_words=0)
    (outcome,) = mask_teacher.synthesize([task], Articles(), tokenizer, query_writers.Associations(), spoken)
    assert "Read on: Brad Orland.</think><visit> Brad Orland</visit>" in tokenizer.decode(outcome.demonstration.ids)
    (alone,) = mask_teacher.synthesize(
        [task], Articles(), tokenizer, query_writers.Associations(), dataclasses.replace(both, tools=("search",))
    )
    assert alone.rejected == "miss"


def test_too_long_is_rejected_and_settings_are_checked(task, tokenizer):
    associations = query_writers.Associations()
    associations.add(["born"], ["birthplace"])
    short = dataclasses.replace(config(associated=1.0), total_tokens=20)
    (outcome,) = mask_teacher.synthesize([task], Library(), tokenizer, associations, short)
    assert outcome.demonstration is None
    with pytest.raises(ValueError, match="add up to 1"):
        config(title=0.4, passage=0.4)
    with pytest.raises(ValueError, match="styles"):
        config(clever=1.0)
