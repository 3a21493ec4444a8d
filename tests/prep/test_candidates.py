"""Salient spans: what is found, of which kind, and what a reader could guess."""

import random
import re

import pytest

from masksearch_jax.prep.spans import candidates, leakage, quantities
from masksearch_jax.prep.wiki import dump_reader, passage_cutting, wikitext
from masksearch_jax.prep.wiki.wikitext import Anchor

PASSAGE = (
    "Karn Velith was born in Oskar Mund on 14 March 1823. He sold 41,200 copies of The Long Water for $3.5 million, "
    "and joined the Royal Order of Dorn in the 1840s. His sister studied botany."
)


def anchors_of(text, *links):
    return [Anchor(text.index(shown), text.index(shown) + len(shown), target) for shown, target in links]


def found(text, title="Nothing Else", links=(), categories=(), infobox=(), rare=None):
    result = candidates.find(text, title, anchors_of(text, *links), list(categories), list(infobox), rare)
    return {text[s.start : s.end]: s.kind for s in result}


def test_kinds():
    links = [("Oskar Mund", "Oskar Mund"), ("botany", "Botany")]
    categories = ["Members of the Royal Order of Dorn"]
    assert found(PASSAGE, "Karn Velith", links, categories, rare=lambda w: w == "sister") == {
        "Oskar Mund": "link", "14 March 1823": "date", "41,200": "number", "Long Water": "name",
        "$3.5 million": "number", "Royal Order of Dorn": "category", "1840s": "date", "sister": "rare",
        "botany": "link",
    }  # fmt: skip


def test_infobox_values_are_terms():
    shown = [("occupation", "Painter, harp maker"), ("spouse", "Mira (1850)")]
    text = "He was a painter and a harp maker; she, Mira, sang."
    assert found(text, infobox=shown) == {"painter": "category", "harp maker": "category", "Mira": "category"}


@pytest.mark.parametrize(
    "date",
    ["14 March 1823", "March 14, 1823", "March 1823", "14 March", "March 14", "1823", "1820s", "5th century BC",
     "300 BC",
     "AD 79", "1914–18", "1914–1918", "12–15 May 1990", "mid-19th century", "19th and 20th centuries", "43 CE",
     "10,000 BC",
     "the 1st of May 2001", "Sept. 3, 1901", "241 to 238 BC", "twentieth century", "first millennium BC"],
)  # fmt: skip
def test_dates(date):
    text = f"It began in {date}, they say."
    (place,) = quantities.dates(text)
    assert text[slice(*place)] == {
        "the 1st of May 2001": "1st of May 2001", "241 to 238 BC": "238 BC",
    }.get(date, date)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["2000 people came.", "It has 1500 species.", "x1823", "1823.5 m", "version 1.1999", "at 1600 km", "May be so."],
)
def test_no_dates(text):
    assert not quantities.dates(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It has 41,200 inhabitants.", ["41,200"]),
        ("It cost $3.5 million, or £4,000.", ["$3.5 million", "£4,000"]),
        ("About 12.5% of 300 men and 7 women.", ["12.5%", "300", "7"]),
        ("From 10 to 20 kilometres, at −40 °C.", ["10 to 20", "−40"]),
        ("Apollo 11 and Table 3 on page 7.", []),
        ("It is 10 km (6 mi) long and 300 m high.", ["300"]),
        ("A ratio of 3:4, 1/2 and 5.", []),
        ("Some 300 soldiers died.", ["300"]),
    ],
)
def test_numbers(text, expected):
    assert [text[slice(*place)] for place in quantities.numbers(text)] == expected


def test_preference_where_spans_overlap():
    # An old-style linked date is one date; a link within a longer name wins over the name.
    text = "On 14 March 1823 General Karn Velith came."
    assert found(text, links=[("14 March", "March 14"), ("1823", "1823"), ("Karn Velith", "Karn Velith")]) == {
        "14 March 1823": "date", "Karn Velith": "link",
    }  # fmt: skip
    # A longer link holds its place against the year in it.
    text = "He saw the Treaty of Osk (1823) signed."
    assert found(text, links=[("Treaty of Osk (1823)", "Treaty of Osk")]) == {"Treaty of Osk (1823)": "link"}


@pytest.mark.parametrize(
    ("text", "title", "link"),
    [
        ("Dorn is old. He left Dorn.", "X", "Dorn"),  # repeated
        ("Karn Velith sang. Later Velith died.", "X", "Karn Velith"),  # the surname alone stands elsewhere
        ("Velith sang. Her brother was Karn Velith.", "X", "Karn Velith"),
        ("He was king of Algeria and led Algerians.", "X", "Algeria"),  # another form
        ("He was French and died in France.", "X", "France"),
        ("The river has rivers beside it.", "X", "rivers"),
        ("The Algerian War began.", "Algeria", "Algerian War"),  # the title in the span
        ("He met Karn.", "Karn Velith", "Karn"),  # the span in the title
        ("He is a philosopher of mind.", "Philosophy of mind", "philosopher"),
        ("The World Water Fund (WWF) paid.", "X", "World Water Fund"),
        ("The World Water Fund (WWF) paid.", "X", "WWF"),
        ("A test of variance.", "Analysis of variance", "ANOVA"),
        ("The Group for Osk and Dorn paid.", "X", "GOD"),
        ("It is a social or a nonsocial task.", "X", "nonsocial"),
        ("Moral philosophy and political philosophy differ.", "X", "political philosophy"),  # half of it
        ("São Tomé is far from Sao Tome.", "X", "São Tomé"),  # accents
    ],
)
def test_guessable_spans_are_no_candidates(text, title, link):
    text = text if link in text else f"{text} They chose {link} then."
    start = text.rindex(link)
    assert link not in [
        text[s.start : s.end] for s in candidates.find(text, title, [Anchor(start, start + len(link), link)], [], [])
    ]


def test_a_name_stated_once_is_a_candidate():
    text = "The University of Osk taught there. He read at the University of Dorn."
    assert found(text, links=[("University of Dorn", "University of Dorn")]) == {
        "University of Osk": "name", "University of Dorn": "link",
    }  # fmt: skip


def test_guessable_numbers_and_dates():
    assert found("In 1823 he came. He left in 1823.") == {}
    assert found("On 3 May 1823 he came. He left on 9 June 1823.") == {"3 May 1823": "date", "9 June 1823": "date"}
    assert found("In 1823 he came; the 1823 flood took 300 men and 300 women.") == {}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("An anarcho-syndicalist came.", "anarcho"),  # part of a word
        ("An anarcho-syndicalist came.", "syndicalist"),
        ("The Osks came.", "Osk"),
        ("He said it was d'Arc there.", "Arc"),
        (
            "It was the one and only thing of its own kind that there ever was there.",
            "thing of its own kind that there ever was",
        ),
        ("It is such as this.", "such as"),
        ("The letter q is rare.", "q"),
        ("He wrote (in Osk) a book.", "in Osk) a"),
        ("He rarely sang.", "rarely"),
        ("In his book of that title he lied.", "book of that title"),
        ("The Greek text is lost.", "Greek"),
    ],
)
def test_no_units(text, shown):
    start = text.index(shown)
    anchor = Anchor(start, start + len(shown), "The Virtue of Selfishness" if "book" in shown else shown)
    assert shown not in [text[s.start : s.end] for s in candidates.find(text, "X", [anchor], [], [])]


def test_possessive_and_quotes_stay_outside():
    text = 'He read Osk\'s "Long Water" there.'
    assert found(text, links=[("Osk's", "Osk"), ('"Long Water"', "Long Water")]) == {
        "Osk": "link",
        "Long Water": "link",
    }


def test_names():
    text = (
        "Then the New Osk Academy rose. Painters came from Dorn and Islamic Mund. "
        "Velith wrote to J. R. Toln of the U.S. The end."
    )
    assert found(text) == {
        "New Osk Academy": "name",
        "Dorn": "name",
        "Islamic Mund": "name",
        "J. R. Toln of the U.S.": "name",
    }


def test_rare_terms_lie_close_together():
    """A term of one field is rare; a word as rare that is spread over the corpus is not, nor is one stated once."""
    corpus = [f"the text number {i}" for i in range(1000)]
    for i in (500, 503, 505, 509):
        corpus[i] += " acetate"
    for i in (10, 300, 600, 900):
        corpus[i] += " enjoy"
    corpus[700] += " unicum"
    rare = candidates.rare_terms(corpus)
    assert rare("acetate") and rare("Acetate")
    assert not rare("enjoy") and not rare("unicum") and not rare("text") and not rare("never seen")


def test_fold_keeps_other_scripts():
    assert leakage.fold("Éva ’Ōkina") == "eva 'okina"
    assert leakage.fold("日本 Москва") == "日本 москва"


def check(text, title, result):
    """What must hold of any spans of any passage."""
    last = 0
    for span in result:
        shown = text[span.start : span.end]
        assert last <= span.start < span.end and span.kind in candidates.KINDS
        last = span.end
        assert shown == shown.strip() and 1 <= len(shown.split()) <= candidates.LONGEST
        assert not text[span.start - 1 : span.start].isalnum() or span.start == 0
        assert not text[span.end : span.end + 1].isalnum()
        rest = text[: span.start] + "\n" + text[span.end :]
        assert not re.search(rf"(?<![\w.,]){re.escape(shown)}(?!\w|[.,]\d)", rest, re.I), (shown, text)
        assert f" {shown} ".lower() not in f" {title} ".lower(), (shown, title)


def test_properties_on_random_text():
    rng = random.Random(0)
    words = (
        'Karn Velith Osk of the in 1823 14 March 300 men river naïve (Dorn) 日本 U.S. 5% "Mund" d\'Arc x-y .'.split()
    )
    for _ in range(400):
        text = " ".join(rng.choice(words) for _ in range(rng.randrange(3, 40)))
        places = sorted(rng.sample(range(len(text) + 1), min(6, len(text))))
        links = [Anchor(a, b, "T") for a, b in zip(places[::2], places[1::2], strict=False)]
        check(
            text,
            "Karn Osk",
            candidates.find(text, "Karn Osk", links, ["Rivers in Dorn"], [("a", "Mund, Osk")], lambda w: True),
        )


def test_real_slice(data_dir):
    """Every span of the slice keeps the rules, most passages have four, every kind occurs."""
    kinds: dict[str, int] = {}
    total = enough = 0
    for article in dump_reader.articles(data_dir / "enwiki-shortened.xml.bz2"):
        if article.id % 3:  # a third of the articles is enough for a quick test
            continue
        document = wikitext.clean(article.wikitext, article.title)
        cut = passage_cutting.cut(document, article.title)
        rare = candidates.rare_terms(p.text for p in cut)
        for passage in cut:
            result = candidates.find(
                passage.text, article.title, passage.anchors, document.categories, document.infobox, rare
            )
            check(passage.text, article.title, result)
            total += 1
            enough += len(result) >= 4
            for span in result:
                kinds[span.kind] = kinds.get(span.kind, 0) + 1
    assert set(kinds) == set(candidates.KINDS) and min(kinds.values()) > 50
    assert enough > 0.6 * total > 500
