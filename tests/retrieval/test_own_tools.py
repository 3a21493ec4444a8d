"""Tools of the user's own behind one guard: deadline, retries, breaker, fallback, exclusion; in a file or over HTTP."""

import http.server
import json
import threading
import time

import pytest

from masksearch_jax.data.records import Passage
from masksearch_jax.retrieval import exclusion, guarded_tool, toolbox
from masksearch_jax.retrieval.article_tool import ArticleTool, SnippetSearch
from masksearch_jax.retrieval.interface import Hit, Query
from masksearch_jax.retrieval.service.http_tool import HttpTool
from masksearch_jax.retrieval.service.remote_settings import Remote
from masksearch_jax.retrieval.service.search_client import NoHits, SearchUnavailableError
from masksearch_jax.retrieval.service.transport import Transport, TransportError
from masksearch_jax.retrieval.tool_answers import ToolError, read_answer

SETTINGS = guarded_tool.CallSettings(timeout_s=5.0, deadline_s=20.0, retries=1, failures=3, cooldown_s=30.0, threads=2)


def guarded(function, fallback=None, excluded=None, **changes):
    settings = guarded_tool.CallSettings(**{**vars(SETTINGS), **changes})
    call = guarded_tool.PythonTool(function)
    return guarded_tool.GuardedTool("calc", "abc", call, settings, excluded, fallback, sleep=lambda seconds: None)


def texts(found):
    return [[(hit.title, hit.text) for hit in hits] for hits in found]


def test_what_a_tool_may_answer():
    answers = {
        "text": "4",
        "texts": ["4", "5", "6"],
        "document": {"title": "Karn", "text": "born"},
        "documents": [{"title": "Karn", "text": "born", "score": 0.5}, {"contents": '"Vesh"\na city'}],
        "nothing": [],
        "empty": "  ",
    }
    tool = guarded(lambda query, k: answers[query])
    assert texts(tool.search([Query(name) for name in answers], 2)) == [
        [("", "4")], [("", "4"), ("", "5")], [("Karn", "born")], [("Karn", "born"), ("Vesh", "a city")], [], [],
    ]  # fmt: skip
    for bad, said in ((None, "NoneType None"), (3, "int 3"), ([{"title": "x"}], "a document needs a text")):
        with pytest.raises(ToolError, match=said):
            read_answer(bad, 2)


def test_texts_are_cleaned():
    assert read_answer("a\x00b\ud800", 1)[0].text == "a b\ufffd"


def test_a_call_that_raises_is_retried_and_then_the_fallback_answers():
    asked = []

    def function(query, k):
        asked.append(query)
        if query == "bad" or asked.count(query) == 1:
            raise OSError("no disk")
        return query

    tool = guarded(function, NoHits(), threads=1)
    assert texts(tool.search([Query("a"), Query("bad"), Query("a")], 1)) == [[("", "a")], [], [("", "a")]]
    assert asked == ["a", "a", "bad", "bad"]
    stats = tool.stats
    assert (stats["queries"], stats["requests"], stats["retries"], stats["failures"]) == (3, 4, 2, 3)
    assert (stats["fallbacks"], stats["cache_hits"]) == (1, 1)
    with pytest.raises(SearchUnavailableError, match="the tool calc does not answer .*last: OSError: no disk"):
        guarded(function).search([Query("bad")], 1)


def test_a_call_that_hangs_is_left_behind_and_the_breaker_opens():
    release = threading.Event()
    tool = guarded(lambda query, k: release.wait(), NoHits(), timeout_s=0.05, retries=0, threads=1)
    began = time.monotonic()
    assert tool.search([Query(str(i)) for i in range(6)], 1) == [[]] * 6
    assert time.monotonic() - began < 5 and tool.stats["requests"] == 3 and tool.stats["breaker_openings"] == 1
    release.set()


def test_the_source_of_a_task_is_hidden(store, corpus):
    source, other = corpus[40], corpus[50]
    answer = [{"title": one.title, "text": one.text} for one in (source, other)]
    tool = guarded(lambda query, k: answer, excluded=exclusion.ExcludeByText(store, "passage", 0.5))
    query = Query("x", passage_id=source.id, article_id=source.article_id)
    assert texts(tool.search([query], 1)) == [[(other.title, other.text)]]
    assert texts(tool.search([Query("x")], 1)) == [[(source.title, source.text)]]


class PostOnly:
    """A server of one path that knows POST alone: http.server answers 501 to a GET. It counts what it is asked."""

    def __init__(self, path, answer):
        outer, self.asked = self, []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, asked))
                status = 200 if self.path == path else 404
                body = json.dumps({"result": [answer(query) for query in asked["queries"]]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def send_error(self, code, *args):
                outer.asked.append((self.path, code))
                super().send_error(code, *args)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_an_http_tool_is_asked_in_one_shape_at_one_address():
    with PostOnly("/calc", lambda query: str(eval(query)) if query != "test" else []) as made:
        call = HttpTool(f"{made.url}/calc")
        call.wait("tools.more.calc", 5.0, 0.0)
        assert [one.text for one in call("1 + 2", 1, 5.0)] == ["3"]
        assert made.asked == [
            ("/calc", {"queries": [query], "topk": 1, "return_scores": True}) for query in ("test", "1 + 2")
        ]
        with pytest.raises(ValueError, match=r"tools.more.calc=.*/nowhere: POST gives 404; give the whole address"):
            HttpTool(f"{made.url}/nowhere").wait("tools.more.calc", 5.0, 0.0)
    with pytest.raises(TransportError, match=r"tools.more.calc=.* was not ready within search.ready_s=0 s"):
        call.wait("tools.more.calc", 1.0, 0.0)


def test_a_search_server_that_takes_nothing_but_posts_is_ready_at_once():
    document = {"document": {"contents": '"Vesh"\na city'}, "score": 1.0}
    with PostOnly("/retrieve", lambda query: [document]) as made:
        remote = Remote.find(made.url, "train", Transport(made.url), 0.0)
        assert not remote.ours and [path for path, _ in made.asked] == ["/retrieve"]


# --- visit, snippets and several tools ------------------------------------------------------------------------------


class Store(list):
    """A passage store in memory."""

    def get(self, ids):
        return [self[id] for id in ids]


class Lists:
    """The lists of an index of all passages but those of `held`; a task hides its own passage."""

    mode = "passage"

    def __init__(self, count, held=()):
        import numpy as np

        self.ids = np.array([id for id in range(count) if id not in held])

    def rows(self, query):
        return [at for at, id in enumerate(self.ids.tolist()) if id == query.passage_id]


@pytest.fixture
def articles():
    """Article 0 has passages 0 and 1, article 1 has 2 to 5."""
    return Store(
        Passage(i, int(i > 1), "Karn" if i < 2 else "Vesh <search>", f"part {i} of it", "train") for i in range(6)
    )


def hit(passage, text=None):
    return Hit(passage.id, passage.article_id, passage.title, text or passage.text, 1.0)


def test_a_visit_reads_on_from_the_passage_that_was_found(articles):
    tool = ArticleTool(articles, Lists(6), "index")

    def visit(title, *found, k=1, **source):
        query = Query(title, tool="visit", found=found, **source)
        return [one.passage_id for one in tool.search([query], k)[0]]

    four = hit(articles[4])
    assert visit("vesh (search)", four) == [5]  # as the observation shows the title, in any case
    assert visit("Vesh (search)", four, hit(articles[5])) == [2]  # from the end to the start
    assert visit("Vesh (search)", four, k=9) == [5, 2, 3]
    assert visit("Vesh (search)", four, k=9, passage_id=5) == [2, 3]  # the task's own passage stays hidden
    assert visit("Vesh (search)", hit(articles[4], "part 4 ..")) == [4]  # a snippet has not been read
    assert visit("Karn", four) == [] and visit("Vesh (search)") == []  # nothing but what a search found
    assert tool.stats["queries"] == 7 and tool.stats["unknown"] == 2
    held = ArticleTool(articles, Lists(6, held=(5,)), "index")
    assert [one.passage_id for one in held.search([Query("Vesh (search)", tool="visit", found=(four,))], 9)[0]] == [
        2,
        3,
    ]


def test_snippets_show_the_first_words(articles):
    class Search:
        fingerprint, stats = "s", {"queries": 1}

        def search(self, queries, k):
            return [[hit(articles[0])], []]

    found = SnippetSearch(Search(), 2)
    assert texts(found.search([Query("a"), Query("b")], 1)) == [[("Karn", "part 0 ..")], []]
    assert SnippetSearch(Search(), 4).search([Query("a")], 1)[0] == [hit(articles[0])]
    assert found.stats == {"queries": 1} and found.fingerprint != SnippetSearch(Search(), 3).fingerprint


def test_each_query_goes_to_its_tool():
    box = toolbox.ToolBox({
        "search": guarded(lambda query, k: "s" + query),
        "calc": guarded(lambda query, k: "c" + query),
    })
    found = box.search([Query("1"), Query("2", tool="calc"), Query("3"), Query("4", tool="calc")], 1)
    assert [hits[0].text for hits in found] == ["s1", "c2", "s3", "c4"]
    assert box.stats["queries"] == 2 and box.stats["calc/queries"] == 2
