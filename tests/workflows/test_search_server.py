"""The entry as a process of its own, and what leads a run to it: config.search and Job.searcher."""

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import serving

from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.service import search_client, wire
from masksearch_jax.retrieval.service.transport import Transport, TransportError
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.workflows import search_server
from masksearch_jax.workflows.context import RunContext

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    rng = random.Random(0)
    words = ["karn", "velith", "tolmar", "river", "city", "born", "founded", "near", "dorvan", "keshan", "orland"]
    texts = [" ".join(rng.choices(words, k=30)) for _ in range(60)]
    passages = [records.Passage(i, i // 2, f"Karn {i // 2}", text, "train") for i, text in enumerate(texts)]
    folder = serving.workdir_of(tmp_path_factory.mktemp("w"), passages)
    build.build_index(folder / "data" / "index" / "train", passages[:40], {"index": "exact", "dims": 512})
    return folder


@contextlib.contextmanager
def process(workdir, *settings):
    """Yields (process, URL) once it is ready; the rest of its messages come with `wait`."""
    line = [sys.executable, "-m", "masksearch_jax.serve_search", f"--workdir={workdir}", "--config.port=0", *settings]
    made = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        url, ready = None, False
        while not ready and (message := made.stderr.readline()):
            url = url or (found := re.search(r"listening on (http://\S+)", message)) and found[1]
            ready = "ready: " in message
        yield made, url
    finally:
        made.kill()
        made.communicate()


def test_sigterm_finishes_what_is_in_flight_and_ends_with_status_0(workdir):
    with process(workdir, "--config.wait_ms=2000") as (made, url):
        found = {}

        def ask():
            found["reply"] = Transport(url).exchange("POST", "/retrieve", wire.request(["karn velith"], 2), 60)

        asking = threading.Thread(target=ask)
        asking.start()
        stats = Transport(url)
        while json.loads(stats.exchange("GET", "/stats", None, 30).body)["batching"].get("requests", 0) == 0:
            pass  # it waits for company
        made.send_signal(signal.SIGTERM)
        asking.join(60)
        assert made.wait(60) == 0
        assert found["reply"].status == 200
        assert len(wire.read_response(found["reply"].body, 1, ours=True)[0][0]) == 2
        host, port = url.removeprefix("http://").split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
        assert "stopped" in made.stderr.read()


def test_a_request_that_outlasts_the_drain_is_cut_and_counted(workdir):
    with process(workdir, "--config.wait_ms=60000", "--config.drain_s=0.5") as (made, url):
        found = []

        def ask():
            try:
                found.append(Transport(url).exchange("POST", "/retrieve", wire.request(["karn velith"], 2), 60).status)
            except TransportError as error:
                found.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        stats = Transport(url)
        while json.loads(stats.exchange("GET", "/stats", None, 30).body)["batching"].get("requests", 0) == 0:
            pass
        made.send_signal(signal.SIGTERM)
        assert made.wait(30) == 0
        assert "stopped, 1 connections cut after drain_s=0.5" in made.stderr.read()
        asking.join(30)
        assert found and found != [200]


def test_without_the_extra_the_server_says_what_to_install(workdir, monkeypatch):
    from configs import serve_search as page
    from masksearch_jax.retrieval import service

    monkeypatch.delitem(sys.modules, "masksearch_jax.retrieval.service.endpoints")
    monkeypatch.delattr(service, "endpoints")
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ValueError, match=r"serve_search needs starlette.*: pip install .*\[service\]"):
        search_server.run(page.get_config(), workdir)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("indices", ("test",), r"data/index/test/index\.json does not exist; build the index again"),
        ("host", "256.0.0.1", r"cannot listen on host='256\.0\.0\.1'"),
        ("k", 1000, r"k is 1000, must be 1 to limits\.k = 100"),
        ("limits.queries", 0, r"limits\.queries=0: it has to be .* at least 1"),
        ("threads", 0, "threads=0: it has to be .* at least 1"),
        ("indices", (), "indices=\(\): it has to be a tuple of names"),
    ],
)
def test_what_cannot_work_is_said_at_once(workdir, name, value, message):
    from configs import serve_search as page

    cfg = page.get_config()
    cfg.port = 0
    cfg.update_from_flattened_dict({name: value})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        search_server.run(cfg, workdir)


@pytest.fixture
def cfg():
    from configs import dapo

    return dapo.get_config()


@pytest.mark.slow
def test_the_benchmark_ends_by_itself_and_prints_a_line(monkeypatch, capsys):
    from benchmarks import service

    monkeypatch.setattr("sys.argv", ["service", "--clients=12", "--seconds=2", "--passages=200", "--pool=20"])
    status = service.main()
    (line,) = capsys.readouterr().out.splitlines()
    measured = json.loads(line)
    assert status == 0 and measured["errors"] == 0 and measured["server_exit"] == 0
    assert measured["requests"] > 0 and 0 < measured["hostile_refused"] == measured["hostile"]
    assert 0 < measured["p50_ms"] <= measured["p99_ms"] <= measured["max_ms"] and measured["server_ms_a_request"] > 0


def test_the_benchmark_says_why_its_server_did_not_start(monkeypatch, tmp_path):
    """The server of another checkout dies at once: no load is put on a port that nobody has."""
    from benchmarks import service

    package = tmp_path / "masksearch_jax"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "serve_search.py").write_text("raise SystemExit('this checkout is broken')")
    monkeypatch.setattr("sys.argv", ["service", "--clients=2", "--passages=200", f"--against={tmp_path}"])
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(SystemExit, match="(?s)ended with status 1 at its start:.*checkout is broken"):
        service.main()


QUERY = Query("karn velith river", 8, 4)  # would find its own source first


def test_the_page_chooses_the_searcher(workdir, cfg):
    local = RunContext(cfg, workdir).searcher("train")
    assert isinstance(local, SearchTool)
    cfg.search.update({"failures": 1, "retries": 0, "cooldown_s": 60.0, "ready_s": 5.0})
    with serving.serving(workdir, ("train", "all")) as (url, _, _):
        cfg.search.url = url + "/{index}"
        found = {}
        for fallback in ("local", "empty", "none"):
            cfg.search.fallback = fallback
            found[fallback] = RunContext(cfg, workdir).searcher("train")
            assert isinstance(found[fallback], search_client.RemoteSearcher)
            assert found[fallback].search([QUERY], 2) == local.search([QUERY], 2)
        assert found["local"].fingerprint == found["none"].fingerprint
        cfg.search.exclusion = "none"
        assert found["none"].fingerprint != RunContext(cfg, workdir).searcher("train").fingerprint
        assert RunContext(cfg, workdir).searcher("train").search([QUERY], 2) != local.search([QUERY], 2)
    other = Query("tolmar orland born", 7, 3)  # now nothing listens
    assert found["local"].search([other], 2) == local.search([other], 2) and found["local"].stats["fallbacks"] == 1
    assert found["empty"].search([other], 2) == [[]]
    for _ in range(2):  # by the server, then by the open breaker
        with pytest.raises(search_client.SearchUnavailableError, match="does not answer"):
            found["none"].search([other], 2)
    assert found["none"].stats["requests"] == 2 and found["none"].breaker.state == "open"


def test_bad_search_settings_end_a_run_before_any_work(tmp_path, cfg):
    from masksearch_jax.workflows import training

    for name, value in (("url", "host:8000"), ("fallback", "google"), ("retries", -1)):
        cfg.search.update({"url": "http://host:8000", "fallback": "local", "retries": 2})
        cfg.search[name] = value
        for context in ("sft", "dapo"):
            cfg.stage = context
            with pytest.raises(ValueError, match=f"search.{name}"):
                training.run(cfg, tmp_path)
    assert not list(tmp_path.iterdir())
