"""Demonstrations in sentences: what they say, when, and that they fit a turn."""

import dataclasses
import re

import numpy as np
import pytest

from masksearch_jax.data.records import Task
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import mask_teacher, query_writers, question_teacher, thoughts, tool_warmup_teacher
from masksearch_jax.teachers.gaps import Gap
from masksearch_jax.teachers.quotes import Quote
from masksearch_jax.text import prompt, tags
from masksearch_jax.text import tokenizer as tokenizer_lib

TEXT = "Karn Velith: Karn Velith was born in the city of [mask]. In the year [mask] she founded the house of [mask]."
GOLDS = ["Tolm Dorvan", "1523", "Vesh Pirael"]
TASK = Task(
    id="7.0.3", kind="ramp", split="train", prompt=[], targets=[], answer_form="spans", answers=[[g] for g in GOLDS],
    span_kinds=["link", "date", "link"], text=TEXT, paragraph="", title="Karn Velith", passage_id=7, article_id=7,
)  # fmt: skip
CITY = Hit(1, 1, "Tolm Dorvan", "It has a river. Karn Velith was born in Tolm Dorvan, a city.", 1.0)
HOUSE = Hit(2, 2, "Vesh Pirael", "Vesh Pirael is a house founded by Karn Velith in the year 1523.", 1.0)
OTHER = Hit(3, 3, "Brad Orland", "Brad Orland met Karn Velith once, in Tolm Dorvan.", 1.0)
QUESTION = Task(
    id="train/qa/1", kind="qa", split="train", prompt=[], targets=[], answer_form="whole", answers=[["Vesh Pirael"]],
    span_kinds=["answer"], text="Who is the founder of the birthplace of Karn Velith?", paragraph="", title="",
    passage_id=-1, article_id=-1, supporting=["Karn Velith", "Tolm (city)"],
)  # fmt: skip
PERSON = Hit(1, 1, "Karn Velith", "Karn Velith was born in Tolm. He was tall.", 1.0)
TOWN = Hit(2, 2, "Tolm (city)", "Tolm was founded by Vesh Pirael.", 1.0)


class Library:
    """Another passage for the first `misses` searches, the city for the next one, the house for all others."""

    fingerprint = "library"

    def __init__(self, misses=0):
        self._hits = [dataclasses.replace(OTHER, text="Brad Orland met Karn Velith once.")] * misses + [CITY]

    def search(self, queries, k):
        return [[self._hits.pop(0) if self._hits else HOUSE] for _ in queries]


class Articles:
    fingerprint = "articles"

    def search(self, queries, k):
        return [[TOWN if "Tolm" in query.text else PERSON] for query in queries]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f" {TEXT} {hit.title}: {hit.text} The text says I look up" for hit in (CITY, HOUSE, OTHER, PERSON, TOWN)]
    return tokenizer_lib.train(texts * 20, tmp_path_factory.mktemp("spoken") / "tokenizer.model", vocab_size=420)


def config(wording="sentences", turn_tokens=400, **other):
    return mask_teacher.TeacherConfig(
        **{
            "styles": {"title": 1.0, "passage": 1e-9}, "retry": 1.0, "attempts": 3, "evidence": 0, "evidence_match": 0,
            "hits": 1, "observation_tokens": 120, "total_tokens": 3000, "seed": 0, "wording": wording,
            "shared_words": 1, "turn_tokens": turn_tokens, **other,
        }
    )  # fmt: skip


def masked(masks):
    """The task with its first `masks` masks, the others filled in."""
    text = TEXT
    for gold in GOLDS[masks:]:
        text = gold.join(text.rsplit(tags.MASK, 1)) if gold != GOLDS[1] else text
    if masks == 1:
        text = TEXT.split(" In the year")[0]
    return dataclasses.replace(TASK, text=text, answers=TASK.answers[:masks], span_kinds=TASK.span_kinds[:masks])


def made(tokenizer, task, library, cfg, teach=mask_teacher.synthesize):
    said = prompt.question_prompt(task.text) if task.kind != "ramp" else prompt.ramp_prompt(task.text)
    task = dataclasses.replace(task, prompt=tokenizer.encode(said))
    (outcome,) = teach([task], library, tokenizer, query_writers.Associations(), cfg)
    return outcome


def turns(tokenizer, one):
    """(text, written by the policy) of each turn and observation."""
    found = []
    for token, own in zip(one.ids, one.trainable, strict=True):
        if not found or found[-1][1] != own:
            found.append(([], own))
        found[-1][0].append(token)
    return [(tokenizer.decode(ids), own) for ids, own in found[1:]]


@pytest.mark.parametrize("wording", ["sentences", "brief"])
def test_one_mask_is_named_searched_quoted_and_answered(tokenizer, wording):
    (plan, _), (shown, _), (answer, _) = turns(
        tokenizer, made(tokenizer, masked(1), Library(), config(wording)).demonstration
    )
    assert prompt.parse_turn(plan) == prompt.Action("search", "Karn Velith")
    assert '"in the city of [mask]"' in plan and "place" in plan
    assert "Karn Velith was born in Tolm Dorvan" in re.search('"(.*)"', answer)[1] and "river" not in answer
    assert prompt.parse_turn(answer) == prompt.Action("answer", "Tolm Dorvan")
    assert (wording == "brief") == (len(plan) < 90)


def test_a_cloze_goes_on_from_the_words_before_the_mask(tokenizer):
    (plan, _), _, (answer, _) = turns(tokenizer, made(tokenizer, masked(1), Library(), config("cloze")).demonstration)
    assert plan == "<think> The gap is a place. I look up Karn Velith.</think><search> Karn Velith</search>"
    lead = "Karn Velith: Karn Velith was born in the city of"
    assert answer == f"<think> {lead} Tolm Dorvan.</think><answer> Tolm Dorvan</answer>"
    three = made(tokenizer, TASK, Library(), config("cloze")).demonstration
    own = [text for text, own in turns(tokenizer, three) if own]
    assert "The first gap is a place." in own[0] and f"{lead} Tolm Dorvan. The second gap is a year." in own[1]
    assert "In the year 1523. she founded the house of Vesh Pirael.<" in own[2]
    teacher = thoughts.Speech("cloze", np.random.default_rng(0), clue_words=1, quote_words=1)
    gap, quote = Gap("place", "", "", lead="born in the city of "), Quote("Karn", 0, 1, 1)
    assert teacher.reading([gap], 0, quote, "Tolm")(0.4) == "city of Tolm."  # made to fit a turn


def test_several_masks_are_planned_and_read_one_after_the_other(tokenizer):
    one = made(tokenizer, TASK, Library(), config()).demonstration
    said = turns(tokenizer, one)
    assert one.searches == 2  # what an observation states of another mask is not searched for
    first, second, last = (text for text, own in said if own)
    assert "There are three gaps." in first and "Then I need a year and a name." in first
    assert "first gap" in second and "Tolm Dorvan" in second and "second gap" in second and "year" in second
    assert "1523" in last and "second gap" in last and "last gap" in last
    assert prompt.parse_turn(last).content == "; ".join(GOLDS)


@pytest.mark.parametrize("wording", thoughts.STYLES[1:])
@pytest.mark.parametrize("masks", [1, 3])
def test_no_turn_says_an_answer_before_it_was_read(tokenizer, wording, masks):
    for seed in range(12):
        task = masked(masks) if masks == 1 else TASK
        library = Library(misses=seed % 2)
        one = made(tokenizer, task, library, config(wording, seed=seed)).demonstration
        known = task.text
        for text, own in turns(tokenizer, one):
            for golds in task.answers:
                assert not own or answer_metrics.contains(known, golds) or not answer_metrics.contains(text, golds)
            known += " " + text


def test_a_thought_that_would_say_the_answer_is_rejected(tokenizer):
    # The noun of its unit is the answer of another mask.
    text = "Karn Velith: Karn Velith was born in the city of [mask] [mask] ago."
    task = dataclasses.replace(
        TASK, text=text, answers=[["Tolm Dorvan"], ["three"]], span_kinds=["link", "rare"],
    )  # fmt: skip
    leaky = [made(tokenizer, task, Library(), config(seed=seed)).rejected for seed in range(3)]
    assert "leak" not in leaky
    task = dataclasses.replace(task, answers=[["Tolm Dorvan"], ["two gaps"]])
    assert made(tokenizer, task, Library(), config()).rejected == "leak"


def test_a_miss_is_said_and_another_query_follows(tokenizer):
    one = made(tokenizer, masked(1), Library(misses=1), config(styles={"title": 0.5, "passage": 0.5})).demonstration
    own = [text for text, own in turns(tokenizer, one) if own]
    assert one.searches == 2 and prompt.parse_turn(own[0]).content != prompt.parse_turn(own[1]).content
    assert re.search("does not say|Nothing here|did not help", own[1])


def test_a_second_search_for_the_clue_does_not_say_it_twice(tokenizer):
    task = dataclasses.replace(masked(1), text="Karn Velith: Karn Velith sang of the sea near [mask] for long.")
    cfg = config("cloze", styles={"title": 1.0, "clue": 1e-9}, shared_words=0)
    one = made(tokenizer, task, Library(misses=1), cfg).demonstration
    first, second, last = [text for text, own in turns(tokenizer, one) if own]
    assert prompt.parse_turn(first).content == "Karn Velith"
    clue = "Karn Velith: Karn Velith sang of the sea near  for long"
    assert prompt.parse_turn(second).content == clue and second.count("sang of the sea") == 1
    assert last.startswith("<think> Karn Velith: Karn Velith sang of the sea near ")


def test_the_rate_of_hits_is_that_of_the_queries_it_asks():
    asked = []

    class Noted(Library):
        def search(self, queries, k):
            asked.extend(query.text for query in queries)
            return super().search(queries, k)

    text = "Tolm (city): Tolm Dorvan met [mask] in Tolm."
    task = dataclasses.replace(masked(1), text=text, title="Tolm (city)", answers=[["Vesh Pirael"]])
    for wording in ("words", "sentences"):
        assert query_writers.hit_rate([task], Noted(), query_writers.Associations(), "title", 1, wording) == (0, 1)
    assert asked[0] != asked[1] == "Tolm (city)"


def test_a_quotation_has_to_fit_what_was_asked_for(tokenizer):
    task = dataclasses.replace(masked(1), text="Karn Velith: Karn Velith sang of the sea near [mask].")
    for retry in (1.0, 0.0):
        assert made(tokenizer, task, Library(), config(shared_words=2, retry=retry)).rejected == "no_evidence"
    assert made(tokenizer, task, Library(), config(shared_words=1)).demonstration


def test_turns_are_shortened_to_their_limit_or_rejected(tokenizer):
    whole = made(tokenizer, TASK, Library(), config()).demonstration
    longest = max(len(tokenizer.encode(text)) for text, own in turns(tokenizer, whole) if own)
    short = made(tokenizer, TASK, Library(), config(turn_tokens=longest - 1)).demonstration
    assert short and all(len(tokenizer.encode(text)) < longest for text, own in turns(tokenizer, short) if own)
    assert made(tokenizer, TASK, Library(), config(turn_tokens=30)).rejected == "long_turn"


def test_wordings_differ_by_task_and_searches_do_not(tokenizer):
    tasks = [dataclasses.replace(masked(1), id=f"{i}.0.1") for i in range(30)]
    cfg = {"styles": {"title": 0.5, "passage": 0.5}}
    plans = {}
    for wording in ("sentences", "brief"):
        found = [made(tokenizer, task, Library(), config(wording, **cfg)) for task in tasks]
        own = [turns(tokenizer, outcome.demonstration)[0][0] for outcome in found if outcome.demonstration]
        plans[wording] = own
    queries = [[prompt.parse_turn(turn).content for turn in own] for own in plans.values()]
    assert queries[0] == queries[1] and len(set(queries[0])) == 2
    assert len({re.sub("<search>.*", "", turn) for turn in plans["sentences"]}) >= 6
    again = [made(tokenizer, task, Library(), config(**cfg)) for task in tasks[:3]]
    assert again == [made(tokenizer, task, Library(), config(**cfg)) for task in tasks[:3]]


@pytest.mark.parametrize("wording", ["sentences", "brief"])
def test_questions_quote_what_leads_on(tokenizer, wording):
    cfg = config(wording, styles={"passage": 1.0})
    one = made(tokenizer, QUESTION, Articles(), cfg, question_teacher.synthesize).demonstration
    first, second, last = (text for text, own in turns(tokenizer, one) if own)
    assert "Karn Velith birthplace" in first and "Tolm" not in first
    assert '"Karn Velith was born in Tolm."' in second and "Tolm founder" in second
    assert '"Tolm was founded by Vesh Pirael."' in last and prompt.parse_turn(last).content == "Vesh Pirael"


def test_verdicts_quote_every_article_and_answer(tokenizer):
    task = dataclasses.replace(QUESTION, text="Is Karn Velith older than Tolm?", answers=[["no"]])
    one = made(tokenizer, task, Articles(), config(), question_teacher.synthesize).demonstration
    own = [text for text, own in turns(tokenizer, one) if own]
    assert one.searches == 2 and '"' in own[1] and '"Tolm was founded by Vesh Pirael."' in own[2]
    assert prompt.parse_turn(own[2]).content == "no"


def test_warm_up_tasks_quote_the_sentence_that_answers(tokenizer):
    task = Task(
        id="train/tool_warmup/1", kind="tool_warmup", split="train", prompt=[], targets=[], answer_form="spans",
        answers=[["Tolm"]], span_kinds=["quote"], text="Look up Karn Velith: born in", paragraph="", title="",
        passage_id=-1, article_id=-1, supporting=["Karn Velith"],
        details={"queries": "Karn Velith born in", "cues": "born in"},
    )  # fmt: skip
    one = made(tokenizer, task, Person(), config(), tool_warmup_teacher.synthesize).demonstration
    plan, last = (text for text, own in turns(tokenizer, one) if own)
    assert "Karn Velith born in" in plan and '"Karn Velith was born in Tolm."' in last
    assert prompt.parse_turn(last).content == "Tolm"


class Person(Articles):
    def search(self, queries, k):
        return [[PERSON] for _ in queries]


def test_styles_are_checked_by_name():
    with pytest.raises(ValueError, match=r"synthesize\.wording='verse'"):
        config("verse")
    with pytest.raises(ValueError, match="style='words'"):
        thoughts.Speech("words", None, 4, 20)
