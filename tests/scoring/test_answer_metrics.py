"""Scores against hand-computed SQuAD examples; spans cut out of answers."""

import collections
import re
import string

import numpy as np
import pytest

from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import tags


def official_normalize(text):
    """The published SQuAD v1.1 rule, written out again as the independent reference."""
    text = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("U.S. Route 66", "us route 66"),
        ("an anthem, a theme", "anthem theme"),
        ("1939–45", "193945"),
        ("Сàнкт-Петербу́рг", "сàнктпетербу́рг"),
        ("東京タワー", "東京タワー"),
        ("हिन्दी", "हिन्दी"),
        ("“Children’s”", "childrens"),
        ("ﬁfty km²", "fifty km2"),
        ("The The", "the the"),
        ("!!!", "!!!"),
        ("", ""),
    ],
)
def test_normalize(text, expected):
    import unicodedata

    assert answer_metrics.normalize(text) == unicodedata.normalize("NFKC", expected)


def test_normalize_equals_the_official_script_on_ascii():
    rng = np.random.default_rng(0)
    words = ["the", "a", "An", "Cat-dog", "U.S.", "theory", "it's", "42%", "(x)", "A's", "end."]
    for _ in range(300):
        text = "  ".join(rng.choice(words, size=rng.integers(1, 7)))
        if official_normalize(text):
            assert answer_metrics.normalize(text) == official_normalize(text)


def test_scores_by_hand():
    # gold {cat, sat, mat} (articles gone), prediction {cat, sat, sat}: two shared.
    gold = ["the cat sat, a mat"]
    assert answer_metrics.token_recall("cat sat sat", gold) == pytest.approx(2 / 3)
    assert answer_metrics.f1("cat sat sat", gold) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))
    assert answer_metrics.exact_match("cat sat sat", gold) == 0.0
    assert answer_metrics.exact_match("The Cat sat mat.", gold) == 1.0
    # A multiset: one gold 'new' is matched once.
    assert answer_metrics.token_recall("new new", ["new york"]) == 0.5
    # rl.md section 3: seven tokens around the one gold token have recall 1 and F1 1/4.
    seven = "one two Paris four five six seven"
    assert answer_metrics.token_recall(seven, ["Paris"]) == 1.0
    assert answer_metrics.f1(seven, ["Paris"]) == pytest.approx(0.25)
    assert answer_metrics.recall_with_length_penalty(seven, ["Paris"], 1.0) == pytest.approx(1 / 7)
    assert answer_metrics.recall_with_length_penalty(seven, ["Paris"], 3.0) == pytest.approx(3 / 7)
    assert answer_metrics.recall_with_length_penalty("Paris", ["Paris"], 1.0) == 1.0
    assert answer_metrics.recall_with_length_penalty("Paris", [" ", "Paris"], 1.0) == 1.0  # a gold without words


def test_best_alias_counts_and_nothing_scores_nothing():
    golds = ["United States of America", "USA"]
    assert answer_metrics.token_recall("the U.S.A.", golds) == 1.0
    assert answer_metrics.f1("USA", golds) == 1.0
    assert answer_metrics.exact_match("usa", golds) == 1.0
    for score in (answer_metrics.token_recall, answer_metrics.f1, answer_metrics.exact_match):
        assert score("", golds) == 0.0
        assert score("  ", ["", "x"]) == 0.0
        # 'The The' and '!!!' do not become equal by vanishing.
        assert score("!!!", ["The The"]) == 0.0
        assert score("the the", ["The The"]) == 1.0
        assert score("Москва", ["Київ"]) == 0.0
        assert score("москва", ["Москва"]) == 1.0


def test_scores_equal_a_numpy_reference_on_random_bags():
    rng = np.random.default_rng(1)
    vocab = np.array([f"w{i}" for i in range(6)])
    for _ in range(200):
        pred, gold = (rng.integers(0, 6, size=rng.integers(1, 9)) for _ in range(2))
        shared = np.minimum(np.bincount(pred, minlength=6), np.bincount(gold, minlength=6)).sum()
        recall, precision = shared / len(gold), shared / len(pred)
        f1 = 2 * recall * precision / (recall + precision) if shared else 0.0
        texts = " ".join(vocab[pred]), [" ".join(vocab[gold])]
        assert answer_metrics.token_recall(*texts) == pytest.approx(recall)
        assert answer_metrics.f1(*texts) == pytest.approx(f1)
        assert answer_metrics.exact_match(*texts) == float(list(pred) == list(gold))


@pytest.mark.parametrize("golds", [[], "Paris"])
def test_golds_must_be_a_list(golds):
    for score in (answer_metrics.token_recall, answer_metrics.f1, answer_metrics.exact_match):
        with pytest.raises(ValueError, match="golds"):
            score("Paris", golds)


def test_kappa_must_be_positive():
    with pytest.raises(ValueError, match="kappa"):
        answer_metrics.recall_with_length_penalty("x", ["x"], 0.0)


def test_contains_matches_whole_words():
    assert answer_metrics.contains("He lived in the Ham, near York.", ["Ham"])
    assert not answer_metrics.contains("He lived in Hamburg.", ["Ham"])
    assert answer_metrics.contains("Born 3 May 1850.", ["x", "may 1850"])


def test_filled_spans():
    assert answer_metrics.spans_of(" Oslo; May 1850 ", "spans", "", 2) == ["Oslo", "May 1850"]
    assert answer_metrics.spans_of("Oslo", "spans", "", 2) is None
    assert answer_metrics.spans_of("Oslo; x", "spans", "", 1) is None
    assert answer_metrics.spans_of("Oslo; ", "spans", "", 2) is None
    assert answer_metrics.spans_of("[mask]", "spans", "", 1) is None
    assert answer_metrics.spans_of("Oslo; Norway", "whole", "", 1) == ["Oslo; Norway"]
    with pytest.raises(ValueError, match="form 'json'"):
        answer_metrics.spans_of("x", "json", "", 1)


MASKED = "[mask] (born 1948) is an American scientist at the [mask], known for [mask]."


def test_paragraph_is_aligned_to_its_template():
    filled = " Andrew Barto (born 1948) is an American scientist\nat the  University of X, known for C++ (really)."
    assert answer_metrics.spans_of(filled, "paragraph", MASKED, 3) == [
        "Andrew Barto",
        "University of X",
        "C++ (really)",
    ]
    # A copy still holds its masks; a changed literal, a missing end or an empty span is not the template.
    assert answer_metrics.spans_of(MASKED, "paragraph", MASKED, 3) is None
    assert answer_metrics.spans_of(filled.replace("1948", "1949"), "paragraph", MASKED, 3) is None
    assert answer_metrics.spans_of(filled.rstrip("."), "paragraph", MASKED, 3) is None
    assert answer_metrics.spans_of(filled.replace("University of X", ""), "paragraph", MASKED, 3) is None
    assert answer_metrics.spans_of("", "paragraph", MASKED, 3) is None
    assert answer_metrics.spans_of("Oslo", "paragraph", "[mask]", 1) == ["Oslo"]
    with pytest.raises(ValueError, match="holds 3 masks, expected 2"):
        answer_metrics.spans_of(filled, "paragraph", MASKED, 2)


def test_ambiguous_paragraph_is_cut_where_the_golds_fit():
    template, filled = "By [mask] and [mask].", "By Tom and Jerry and Bob."
    assert answer_metrics.spans_of(filled, "paragraph", template, 2) == ["Tom", "Jerry and Bob"]
    golds = [["Tom and Jerry"], ["Bob"]]
    assert answer_metrics.spans_of(filled, "paragraph", template, 2, golds) == ["Tom and Jerry", "Bob"]
    assert answer_metrics.spans_of(filled.replace("Bob", "Al"), "paragraph", template, 2, golds) == [
        "Tom and Jerry",
        "Al",
    ]


def test_filling_a_template_gives_the_spans_back():
    rng = np.random.default_rng(2)
    for _ in range(200):
        masks = int(rng.integers(1, 5))
        words = lambda low: " ".join(rng.choice(["x", "y", "and", "of"], size=rng.integers(low, 4)))  # noqa: E731, B023
        golds = [[words(1)] for _ in range(masks)]
        pieces = [words(0)]
        for gold in golds:
            pieces += [gold[0], words(1)]
        template = " ".join(tags.MASK if index % 2 else piece for index, piece in enumerate(pieces))
        spans = answer_metrics.spans_of(" ".join(pieces), "paragraph", template, masks, golds)
        assert [answer_metrics.f1(span, gold) for span, gold in zip(spans, golds, strict=True)] == [1.0] * masks
        assert collections.Counter(" ".join(spans)) == collections.Counter(" ".join(gold[0] for gold in golds))
