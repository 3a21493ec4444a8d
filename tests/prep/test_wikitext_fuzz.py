"""Wikitext of any shape: no page crashes, what comes out is clean, and cost grows at most like n log n."""

import pytest
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st
from markup_shapes import pages, repeated, shapes

from masksearch_jax.prep.spans import candidates
from masksearch_jax.prep.wiki import passage_cutting, wikitext
from masksearch_jax.prep.wiki.site_info import ENGLISH, Site

SITES = [
    ENGLISH,
    Site("de", "dewiki", (("datei", "file"), ("kategorie", "category"), ("vorlage", "other"))),
    Site("ja", "jawiki", (("ファイル", "file"),)),
]


def prepared(text, site=ENGLISH):
    """All that preparation does with one page: (document, passages, their spans)."""
    document = wikitext.clean(text, "Title", site)
    cut = passage_cutting.cut(document, "Title")
    facts = (document.categories, document.infobox)
    found = [
        candidates.find(p.text, "Title", p.anchors, *facts, rare=lambda word: True, language=site.language) for p in cut
    ]
    return document, cut, found


@fuzz(pages, st.sampled_from(SITES), examples=80)
def test_any_page_gives_clean_text_or_none(text, site):
    document, cut, found = prepared(text, site)
    for part in (*document.paragraphs, *cut):
        assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in part.text), part.text
        assert part.text == part.text.strip() != ""
        for anchor in part.anchors:
            shown = part.text[anchor.start : anchor.end]
            assert shown == shown.strip() != "" and anchor.target
    for passage, chosen in zip(cut, found, strict=True):
        assert all(0 <= s.start < s.end <= len(passage.text) for s in chosen)
        assert all(a.end <= b.start for a, b in zip(chosen, chosen[1:], strict=False))


@fuzz(shapes, examples=8)
def test_cost_grows_like_n_log_n(shape):
    assert_grows_like_n_log_n(prepared, lambda size: repeated(shape, size), largest=100_000)


@pytest.mark.parametrize(
    "shape",
    [
        ("=", " ", "a"),  # 2,500 of them took 20 s
        ("A is ", "\u0301\u0323", ". "),
        ("A is ", "\u0f73", "."),
        ("A is (", "[[b|(c]]", ". "),
        ("A <", "a", ". "),
        ("", "[[A]] bcde. ", ""),
        ("", "\n== A ==\nAbc Def is it.", ""),
        ("", "[[Category:A", "]]"),
        ("[[Category:", "in a ", "\n.]]"),
        ("", "<ref>", ""),
        ("", "<ref><!--<ref>\n", "--></ref>"),
        ("A is {{chem2|", "1", "}} b."),
        ("A is {{convert|", "1", "x|km}} b."),
        ("A is b ", "Abcde1 Abcdf2 ", "."),
    ],
)
def test_shapes_that_were_quadratic_are_not(shape):
    assert_grows_like_n_log_n(prepared, lambda size: repeated(shape, size), largest=100_000)


@pytest.mark.parametrize("source", [f"{{{{formatnum:{'9' * 5000}}}}}", "{{start date|2010|²}}", f"&#{'9' * 5000};"])
def test_figures_that_no_number_has_do_not_crash(source):
    (paragraph,) = wikitext.clean(f"One is here. It is {source} so. Two is here.", "T").paragraphs
    assert paragraph.text.startswith("One is here.") and paragraph.text.endswith("Two is here.")
