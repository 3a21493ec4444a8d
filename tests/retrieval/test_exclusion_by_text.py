"""A document that could be the source of a task is hidden, however another server splits and writes it."""

import pytest
import serving

from masksearch_jax.data import records
from masksearch_jax.retrieval import exclusion
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import search_client, wire
from masksearch_jax.retrieval.service.remote_settings import Remote, RemoteSettings
from masksearch_jax.retrieval.service.transport import Transport

TITLE = "Karn Velith"
TEXT = (
    "Karn Velith (born 4 May 1850 in Tolmar) was a painter & engraver from the northern coast. He studied under Orla "
    'Denn, whose "School of Light" he left in 1871, and moved to Keshan. There the café of his brother became a place '
    "where writers and sailors met each other every evening until the great fire of 1889 destroyed the harbour quarter."
)
NEXT = (
    "After the fire he painted nothing for nine years. His late work shows empty rooms and open windows, which critics "
    "of the time disliked and which museums of three countries now compete for whenever one of them is sold."
)
OTHER = (
    "The lighthouse at Dorvan stands on a cliff above the strait. It was built of grey stone by prisoners and is "
    "visited by forty thousand people in a good summer, most of whom come by the old ferry from the mainland."
)
WORDS = TEXT.split()
HALF = " ".join(WORDS[25:50])
ESCAPED = TEXT.replace("&", "&amp;").replace('"', "&quot;").replace("é", "&#233;")
MARKED = TEXT.replace("Orla Denn", "[Orla Denn](https://x.org/Orla_Denn)").replace("Keshan", "**Keshan**[12]")
ACROSS = " ".join(NEXT.split()[:60] + WORDS[:12])  # a third of it is of the source

SOURCES = {
    "search-r1": {"document": {"contents": f'"{TITLE}"\n{TEXT}'}},
    "bare": {"contents": f'"{TITLE}"\n{TEXT}'},
    "title without quotes": {"contents": f"{TITLE}\n{TEXT}"},
    "windows line ends": {"contents": f'"{TITLE}"\r\n{TEXT}'},
    "title and text": {"document": {"title": TITLE, "text": TEXT}},
    "title and contents": {"title": TITLE, "contents": TEXT},
    "title and contents with it": {"title": TITLE, "contents": f"{TITLE}\n{TEXT}"},
    "text alone": {"contents": TEXT},
    "text alone, as a string": {"document": TEXT},
    "no title": {"text": TEXT},
    "title null": {"title": None, "text": TEXT},
    "one space between": {"contents": f"{TITLE} {TEXT}"},
    "nothing between": {"contents": f"{TITLE}{TEXT}"},
    "colon between": {"contents": f"{TITLE}: {TEXT}"},
    "quoted title, no end of line": {"contents": f'"{TITLE}" {TEXT}'},
    "text where the title belongs": {"title": TEXT, "text": "see there"},
    "quoted text as the first line": {"contents": f'"{TEXT}"\n'},
    "another title": {"title": "chunk 17", "text": TEXT},
    "label": {"contents": f"Doc 1(Title: {TITLE}) {TEXT}"},
    "several lines": {"contents": TEXT.replace(". ", ".\n")},
    "each word a line": {"contents": "\n".join(WORDS)},
    "wide blank space": {"contents": "\u00a0 \t".join(WORDS)},
    "no blank space at all": {"contents": "".join(WORDS)},
    "broken words": {"contents": TEXT.replace("painter", "pain-\nter").replace("writers", "wri\u00adters")},
    "capitals": {"title": "x", "text": TEXT.upper()},
    "curly quotes": {"title": "x", "text": TEXT.replace('"', "”").replace("é", "e\u0301")},
    "entities": {"title": "x", "text": ESCAPED},
    "entities twice": {"title": "x", "text": ESCAPED.replace("&", "&amp;")},
    "html": {"title": "x", "text": "<p>" + TEXT.replace("Keshan", '<a href="/wiki/Keshan">Keshan</a>') + "</p>"},
    "markdown": {"title": "x", "text": f"# {TITLE}\n\n{MARKED}"},
    "wiki links": {"title": "x", "text": TEXT.replace("Keshan", "[[Keshan (city)|Keshan]]")},
    "first half": {"title": "x", "text": " ".join(WORDS[:25])},
    "second half": {"contents": HALF},
    "few words": {"contents": " ".join(WORDS[30:36])},
    "two words": {"contents": "Orla Denn"},
    "a sentence and its title": {"contents": f"{TITLE} {' '.join(WORDS[14:24])}"},
    "within what looks like markup": {"title": "x", "text": f"[[ {' '.join(WORDS[:20])} | {' '.join(WORDS[20:])}"},
    "several passages": {"title": "Painters", "text": f"{OTHER} {OTHER} {TEXT} {NEXT} {OTHER}"},
    "half of it in another": {"title": "Painters", "text": f"{OTHER} {HALF} {OTHER}"},
    "cut elsewhere, right title": {"title": TITLE, "text": ACROSS},
    "cut elsewhere, title before": {"contents": f"{TITLE} {ACROSS}"},
    "cut elsewhere, no title": {"contents": ACROSS},
    "cut elsewhere, an address": {"title": "https://x.org/wiki/Karn_Velith", "text": ACROSS},
    "half a character": {"contents": f"{TITLE} \ud800{TEXT}"},
    "nul": {"contents": f"{TITLE}\x00{TEXT}"},
    "a mark within the words": {"contents": TEXT.replace("painter", "pain\u200bter")},
    "very long references": {"contents": f"&#{'9' * 5000}; {TEXT}"},
}
ALLOWED = {
    "of the article, another passage": {"title": TITLE, "text": NEXT},
    "another article": {"contents": f'"Dorvan"\n{OTHER}'},
    "no title": {"contents": OTHER},
    "a set phrase": {"contents": f"{OTHER} It was destroyed by the great fire of 1889 destroyed."},
    "a fact, in other words": {"title": "Tolmar", "text": "Tolmar is where the painter Karn Velith was born in 1850."},
    "another, with his name": {"title": "Karn Velith Prize", "text": f"Karn Velith Prize is given yearly. {OTHER}"},
}
OF_THE_ARTICLE = {
    "title": {"title": TITLE, "text": OTHER},
    "first line": {"contents": f"{TITLE}\n{OTHER}"},
    "quoted": {"contents": f'"{TITLE}"\n{OTHER}'},
    "first words": {"contents": f"{TITLE} {OTHER}"},
    "glued": {"contents": f"{TITLE}{OTHER}"},
    "capitals": {"contents": f"KARN VELITH {OTHER}"},
    "heading": {"contents": f"# {TITLE}\n{OTHER}"},
    "label": {"contents": f"Document 3, title: {TITLE}. {OTHER}"},
    "address": {"title": "https://en.wikipedia.org/wiki/Karn_Velith", "text": OTHER},
    "window": {"title": "Karn Velith - Wikipedia", "text": OTHER},
    "file name": {"title": "doc_17.txt", "text": f"Karn Velith was there. {OTHER}"},
    "no title, its next passage": {"contents": NEXT},
    "a piece of its next passage": {"title": "x", "text": " ".join(NEXT.split()[8:20])},
}
QUERY = Query("painter of Keshan", 1, 1)


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    path = tmp_path_factory.mktemp("articles") / "passages.array_record"
    titled = [(0, "Dorvan", OTHER), (1, TITLE, TEXT), (1, TITLE, NEXT), (2, "Tolmar", "Tolmar is a town on the river.")]
    records.write(path, [records.Passage(i, *one, "train") for i, one in enumerate(titled)])
    return PassageStore(path)


@pytest.fixture(scope="module")
def entries():
    return []


@pytest.fixture(scope="module")
def url(entries):
    with serving.ScriptedServer(lambda asked: {"result": [entries[: asked["topk"]]] * len(asked["queries"])}) as server:
        yield server.url


def search(url, store, mode, k=3, query=QUERY):
    settings = RemoteSettings(url, 10.0, 10.0, 0, 5, 30.0, 0.0, "none")
    excluded = exclusion.ExcludeByText(store, mode, 0.5)
    searcher = search_client.RemoteSearcher(Remote(url, False, wire.Limits()), Transport(url), settings, excluded, None)
    return searcher.search([query], k)[0], searcher.stats


def check(url, entries, articles, entry, mode, shown):
    entries[:] = [entry]
    hits, _ = search(url, articles, mode)
    assert len(hits) == shown
    hits, _ = search(url, articles, mode, query=Query("painter of Keshan"))  # a question sees everything
    assert len(hits) == 1


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_is_hidden_in_every_shape(url, entries, articles, name):
    check(url, entries, articles, SOURCES[name], "passage", 0)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_not_the_source_is_shown(url, entries, articles, name):
    check(url, entries, articles, ALLOWED[name], "passage", 1)


@pytest.mark.parametrize("name", OF_THE_ARTICLE)
def test_the_article_is_hidden_wherever_its_title_is(url, entries, articles, name):
    check(url, entries, articles, OF_THE_ARTICLE[name], "article", 0)


@pytest.mark.parametrize("name", [name for name in ALLOWED if not name.startswith("of the article")])
def test_another_article_is_shown(url, entries, articles, name):
    entries[:] = [ALLOWED[name]]
    assert len(search(url, articles, "article")[0]) == 1


def test_what_is_hidden_is_made_up_for(url, entries, articles):
    """Thirty pieces of the source come first, each once more: the server is asked until three others are found."""
    pieces = [{"contents": " ".join(WORDS[i % 30 : i % 30 + 9])} for i in range(60)]
    others = [{"contents": f'"Article {i}"\n{OTHER} Number {i}.'} for i in range(5)]
    entries[:] = [*pieces, others[0], *others]
    hits, stats = search(url, articles, "passage")
    assert [hit.title for hit in hits] == ["Article 0", "Article 1", "Article 2"] and stats["refetches"] == 1
    entries[:] = [*pieces, *pieces, *others]  # beyond what a server of that kind is asked for
    hits, stats = search(url, articles, "passage")
    assert hits == [] and stats["refetches"] == 2


def test_titles_are_shown_where_there_are_any(url, entries, articles):
    shapes = [
        ({"contents": f'"Dorvan"\n{OTHER}'}, ("Dorvan", OTHER)),
        ({"title": "Dorvan", "contents": f"1 {OTHER}"}, ("Dorvan", f"1 {OTHER}")),
        ({"title": "Dorvan", "contents": f'"Dorvan"\n2 {OTHER}'}, ("Dorvan", f"2 {OTHER}")),
        ({"contents": f"Dorvan 3 {OTHER}"}, ("", f"Dorvan 3 {OTHER}")),
        ({"contents": f"{OTHER} {OTHER}\n4 {OTHER}"}, ("", f"{OTHER} {OTHER}\n4 {OTHER}")),
    ]
    entries[:] = [entry for entry, _ in shapes]
    hits, _ = search(url, articles, "passage", k=5)
    assert [(hit.title, hit.text) for hit in hits] == [shown for _, shown in shapes]
