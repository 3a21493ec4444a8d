"""The server: who may ask, what it answers, and that no text of a model becomes part of the page."""

import json
import re
import sqlite3

import pytest

pytest.importorskip("starlette")
testclient = pytest.importorskip("starlette.testclient", reason="needs httpx")

from masksearch_jax.evals.runner import write_rows  # noqa: E402
from masksearch_jax.trajectories import store as store_lib  # noqa: E402
from masksearch_jax.viewer import http_app, library, one_file, sources, static_files  # noqa: E402
from tests.stored_episodes import HOSTILE, make_run, row  # noqa: E402


@pytest.fixture
def runs(tmp_path):
    found = sources.Runs([make_run(tmp_path / "run")])
    yield found
    found.close()


@pytest.fixture
def client(runs):
    return testclient.TestClient(http_app.application(runs), base_url="http://127.0.0.1:8421")


def ask(client, question, **given):
    reply = client.get(f"/api/{question}", params=given)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_only_this_machine_is_answered(client):
    for host in ("127.0.0.1", "127.0.0.1:9", "localhost:8421", "LOCALHOST", "[::1]:80", "[::1]"):
        assert client.get("/", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8421", "", "10.0.0.1", "[::2]:80"):
        reply = client.get("/api/overview", headers={"host": host})
        assert reply.status_code == 403 and "run" not in reply.json(), host
        assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_every_answer_has_the_policy_and_nothing_can_be_written(client):
    for path in ("/", "/viewer.css", "/main.js", "/api/overview", "/nothing", "/api/episode"):
        reply = client.get(path)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    for path in ("/static_files.py", "/../library.py", "/%2e%2e/library.py", "/index.html", "/..%2f..%2freport.py"):
        assert client.get(path).status_code == 404
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/api/episodes").status_code == 405


def test_overview(client):
    found = ask(client, "overview")
    names = {one["name"]: one for one in found["runs"][0]["sources"]}
    assert list(names) == ["dapo", "evaluate/dapo", "evaluate/sft"]
    assert names["dapo"]["episodes"] == 48 and names["dapo"]["stops"] == {"answer": 36, "turns": 12}
    assert names["dapo"]["versions"] == {"0": 16, "1": 16, "2": 16}
    assert found["labels"] == {"ramp_1": "1 mask"} and found["tags"]["mask"] == "[mask]" and found["full_text"]


def test_lists_are_filtered_sorted_and_paged_by_the_server(client):
    assert ask(client, "episodes")["total"] == 72
    first = ask(client, "episodes", sources="0~dapo", sort="reward", order="desc", limit="5")
    assert first["total"] == 48 and [one["reward"] for one in first["rows"]] == [0.75] * 5
    again = ask(client, "episodes", sources="0~dapo", sort="reward", order="desc", limit="5", offset="5")
    assert not {(o["group"], o["sample"]) for o in first["rows"]} & {(o["group"], o["sample"]) for o in again["rows"]}
    assert ask(client, "episodes", sources="0~dapo", stop="turns")["total"] == 12
    assert ask(client, "episodes", sources="0~dapo~1")["total"] == 16
    assert ask(client, "episodes", sources="0~dapo|0~evaluate/sft")["total"] == 60
    assert ask(client, "episodes", trained="yes")["total"] == 24
    assert ask(client, "episodes", min_reward="0.5", max_searches="2")["total"] == 12
    assert ask(client, "episodes", sources="0~dapo", min_advantage="1", task="ramp_1")["total"] == 6
    assert ask(client, "episodes", task="ramp_9")["total"] == 0
    # what has no advantage comes last, whichever way it is sorted
    for order in ("asc", "desc"):
        rows = ask(client, "episodes", sort="advantage", order=order, limit="200")["rows"]
        known = [one["advantage"] is not None for one in rows]
        assert known == sorted(known, reverse=True)
    assert len(ask(client, "episodes", limit="100000")["rows"]) == 72  # the limit is bounded


def test_search(client):
    everything = ask(client, "episodes", q="velith")["total"]
    assert everything == 72
    assert ask(client, "episodes", q="number 7 born")["total"] == 6  # task 7: four samples, two evaluations
    assert ask(client, "episodes", q='"born in 1849"')["total"] == 72
    assert ask(client, "episodes", q='"in born"')["total"] == 0
    assert ask(client, "episodes", q="veli")["total"] == 72  # the last word may go on
    for text in (
        '"',
        '""',
        "*",
        "(",
        "a OR",
        "NEAR(",
        "-",
        "x:y",
        "'; DROP TABLE episodes; --",
        "\x00",
        "𝕏" * 500,
        "%",
    ):
        client.get("/api/episodes", params={"q": text}).raise_for_status()
    assert ask(client, "episodes")["total"] == 72


def test_search_without_an_index_of_words(runs, monkeypatch):
    monkeypatch.setattr(library, "has_search", lambda db, schema: False)
    found = library.Library(runs).episodes({"q": "number velith 1849"})
    assert found["total"] == 72
    assert library.Library(runs).episodes({"q": "100%"})["total"] == 0


def test_an_episode_has_its_turns_and_its_tokens(client):
    found = ask(client, "episode", source="0~dapo", group="2", sample="3")
    assert found["text"].endswith(HOSTILE) and found["golds"] == [["1849", "year 1849"]]
    assert found["advantage"] == 1.5 and found["trained"] == 1
    values = found["values"]
    assert values["texts"][5] == HOSTILE and values["trainable"] == [0, 0, 0, 1, 1, 1, 0, 1]
    assert values["after"][4] == -2.0 and values["clipped"][5] == -1
    assert "after" not in ask(client, "episode", source="0~dapo", group="1", sample="0")["values"]
    assert "values" not in ask(client, "episode", source="0~evaluate/sft", group="1", sample="0")
    group = ask(client, "group", source="0~dapo", group="2")
    assert [one["sample"] for one in group] == [0, 1, 2, 3] and group[3] == found


def test_what_means_nothing_is_a_sentence(client):
    for path, status, text in (
        ("episode?source=0~dapo&group=999&sample=0", 404, "no episode of group 999 in dapo"),
        ("episode?source=0~dapo&group=x&sample=0", 400, "group='x' is no whole number"),
        ("episode?source=dapo&group=1&sample=0", 400, "is no source; write run~source"),
        ("episode?source=7~dapo&group=1&sample=0", 404, "no episode"),
        (f"episodes?sources=0~dapo~{'9' * 20}", 400, "is no source"),
        ("episodes?sort=body", 400, "sort='body' is none of"),
        ("episodes?min_reward=many", 400, "min_reward='many' is no number"),
        ("episodes?offset=-1", 400, "offset='-1' is no whole number"),
        ("compare?a=0~dapo", 400, "is no source"),
    ):
        reply = client.get(f"/api/{path}")
        assert reply.status_code == status and text in reply.json()["error"], path


def test_two_sources_on_the_same_tasks(client):
    found = ask(client, "compare", a="0~evaluate/sft", b="0~evaluate/dapo")
    assert found["total"] == 12 and found["mean_a"] == 0.25 and found["mean_b"] == 0.5
    assert found["difference"] == 0.25 and found["se"] == pytest.approx((0.1875 / 11) ** 0.5)
    assert [one["difference"] for one in found["rows"]] == [1.0] * 3 + [0.0] * 9
    assert [one["task_id"] for one in found["rows"]][:3] == ["task1", "task5", "task9"]
    # several samples of a task count with their mean; a policy version may be a side
    found = ask(client, "compare", a="0~dapo~1", b="0~evaluate/dapo", sort="task_id", order="asc")
    assert found["total"] == 4 and found["rows"][0]["a"] == 0.375 and found["rows"][0]["n_a"] == 4
    assert [one["sample"] for one in ask(client, "task", source="0~dapo", task_id="task5")] == [0, 1, 2, 3]


def test_two_runs_and_renamed_and_nested_stages(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", groups=8)
    (first / "dapo").rename(first / "older")
    make_run(first / "seed_1", groups=4)
    found = library.Library(sources.Runs([first, second]))
    names = [[one["name"] for one in run["sources"]] for run in found.overview()["runs"]]
    assert names == [
        ["older", "seed_1/dapo", "evaluate/dapo", "evaluate/sft", "seed_1/evaluate/dapo", "seed_1/evaluate/sft"],
        ["dapo", "evaluate/dapo", "evaluate/sft"],
    ]
    assert found.episodes({"sources": "0~seed_1/dapo"})["total"] == 16
    assert found.episodes({"sources": "1~dapo"})["total"] == 32
    assert found.episodes({})["total"] == 48 + 24 + 16 + 8 + 32 + 16
    assert found.compare({"a": "0~evaluate/sft", "b": "1~evaluate/sft"})["total"] == 8
    assert {one["source"] for one in found.group(library.Source(0, "older"), 1)} == {"older"}


def test_curves(client):
    stages = ask(client, "curves")
    assert [(one["name"], one["unit"], one["last"]) for one in stages] == [("sft", "step", 8), ("dapo", "iteration", 8)]
    assert stages[1]["series"]["seconds/rollout"][0] == [1, 0.142857]


def test_evaluations_are_read_again_when_they_change(client, runs, tmp_path):
    path = tmp_path / "run" / "evaluate" / "sft" / "rows.jsonl"
    write_rows(path, [row(place) for place in range(5)])
    write_rows(tmp_path / "run" / "evaluate" / "few_shot" / "rows.jsonl", [row(0)])
    counts = {one["name"]: one["episodes"] for one in ask(client, "overview")["runs"][0]["sources"]}
    assert counts == {"dapo": 48, "evaluate/dapo": 12, "evaluate/few_shot": 1, "evaluate/sft": 5}
    path.write_text("{}\n")
    problems = ask(client, "overview")["runs"][0]["problems"]
    assert len(problems) == 1 and "rows.jsonl, line 1: not a row of this version" in problems[0]


def test_a_damaged_database_is_named_and_the_rest_shown(tmp_path):
    workdir = make_run(tmp_path / "run")
    sources.Runs([workdir]).close()
    (workdir / "dapo" / "trajectories" / "episodes.sqlite").write_bytes(b"no database, and longer than a header" * 99)
    (workdir / "evaluate" / "episodes.sqlite").write_bytes(b"what the viewer made of the rows, damaged" * 99)
    overview = library.Library(sources.Runs([workdir])).overview()["runs"][0]
    assert [one["name"] for one in overview["sources"]] == ["evaluate/dapo", "evaluate/sft"]
    assert len(overview["problems"]) == 1 and "dapo/trajectories/episodes.sqlite" in overview["problems"][0]


def test_a_database_that_another_process_holds_is_left_alone(tmp_path, monkeypatch):
    workdir = make_run(tmp_path / "run")
    sources.Runs([workdir]).close()
    path = workdir / "evaluate" / "episodes.sqlite"
    connect = sqlite3.connect
    monkeypatch.setattr(store_lib.sqlite3, "connect", lambda *args, **how: connect(*args, timeout=0.05, **how))
    holder = connect(path, isolation_level=None)
    for hold in ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "PRAGMA locking_mode=EXCLUSIVE"):
        holder.execute(hold)
        if "PRAGMA" in hold:  # now nobody else can even read it
            holder.execute("PRAGMA journal_mode=DELETE")
            holder.execute("BEGIN EXCLUSIVE")
        before = path.stat().st_ino
        write_rows(workdir / "evaluate" / "sft" / "rows.jsonl", [row(place) for place in range(len(hold))])
        runs = sources.Runs([workdir])
        counts = {one["name"]: one["episodes"] for one in library.Library(runs).overview()["runs"][0]["sources"]}
        assert counts["evaluate/sft"] == len(hold) and path.stat().st_ino == before
        runs.close()
        holder.execute("ROLLBACK")
    holder.close()


def test_a_folder_without_a_run_says_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no episodes and no metrics.jsonl; train with `python -m"):
        sources.Runs([tmp_path / "empty"])


def test_a_read_only_workdir_is_left_alone(tmp_path, monkeypatch):
    workdir = make_run(tmp_path / "run")
    before = {path for path in workdir.rglob("*") if not path.name.endswith(("-wal", "-shm"))}
    monkeypatch.setattr(sources.os, "access", lambda path, mode: False)
    monkeypatch.setattr(store_lib.os, "access", lambda path, mode: False)
    runs = sources.Runs([workdir])
    assert library.Library(runs).episodes({})["total"] == 72
    assert {path for path in workdir.rglob("*") if not path.name.endswith(("-wal", "-shm"))} == before
    runs.close()


def test_one_file_holds_a_bounded_sample_and_no_text_of_a_model_as_markup(runs, tmp_path):
    path = one_file.write(tmp_path / "viewer.html", runs)
    page = path.read_text()
    assert HOSTILE not in page and "<img" not in page and "</script><img" not in page
    assert page.count("<script") == 2 == page.count("</script>")
    start = page.index('id="embedded">') + len('id="embedded">')
    data = json.loads(page[start : page.index("</script>", start)])
    assert len(data["episodes"]) == 72 and {"overview", "curves", "episodes"} == set(data)
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    small = one_file.contents(runs, 40_000)["episodes"]
    assert 0 < len(json.dumps(small)) < 70_000
    groups = {(one["source"], one["task_id"]) for one in small}
    # the same tasks of both evaluations, so that they can be compared
    assert {task for source, task in groups if source == "evaluate/sft"} & {
        task for source, task in groups if source == "evaluate/dapo"
    }


def test_the_scripts_can_be_joined():
    known = set()
    for name in static_files.SCRIPTS:
        text = (static_files.FOLDER / name).read_text()
        for imported in re.findall(r'^import .*"\./([^"]+)";', text, re.MULTILINE):
            assert imported in known, f"{name} imports {imported}, which comes later"
        known.add(name)
        for forbidden in ("innerHTML", "outerHTML", "document.write", "insertAdjacentHTML", "eval(", "http"):
            assert forbidden not in text.replace("http://www.w3.org/2000/svg", ""), f"{name}: {forbidden}"
    joined = static_files.joined_script()
    assert not re.search(r"^(import|export) ", joined, re.MULTILINE)
    files = {path.name for path in static_files.FOLDER.iterdir()}
    assert files == {*static_files.SCRIPTS, static_files.PAGE, static_files.STYLE}
