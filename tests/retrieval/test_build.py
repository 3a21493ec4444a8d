import dataclasses
import json
import threading

import numpy as np
import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval.index import build, capacity, index_store, recall_check, scann_index, tuning
from masksearch_jax.retrieval.index.index_settings import ScannSettings
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.tool import SearchTool

EXACT = {"index": "exact", "dims": 256}
QUERIES = [Query(text) for text in ("kalo miren", "velsun", "tosdra quinor pelba", "norba lo ka")]


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    directory = tmp_path_factory.mktemp("built") / "index"
    return directory, build.build_index(directory, corpus, EXACT)


def test_report_and_index_file(built, corpus):
    directory, report = built
    contents = json.loads((directory / "index.json").read_text())
    assert contents["report"] == report
    assert contents["settings"]["dims"] == 256 and contents["settings"]["exclusion"] == "passage"
    assert report["passages"] == len(corpus) and report["index"] == "exact" and report["recall_at_10"] == 1.0
    assert report["passages_with_near_duplicates"] == 3
    on_disk = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert set(contents["files"]) == on_disk - {"index.json"}
    assert not directory.with_name("index.partial").exists()


def test_prints_the_memory_it_will_take(tmp_path, corpus, capsys):
    build.build_index(tmp_path / "index", corpus, EXACT)
    assert "300 passages x 256 dimensions: vectors 0 MB, memory about" in capsys.readouterr().out


def test_a_moved_folder_searches_the_same(tmp_path, corpus, store):
    build.build_index(tmp_path / "here", corpus, {"dims": 256})
    before = SearchTool.load(tmp_path / "here", store)
    hits = before.search(QUERIES, 5)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = SearchTool.load(tmp_path / "there", store)
    assert moved.search(QUERIES, 5) == hits and any(hits)
    assert moved.fingerprint == before.fingerprint


def test_fingerprint_covers_passages_encoder_and_index(tmp_path, corpus, built):
    def fingerprint(passages, **changed):
        build.build_index(tmp_path / "index", passages, EXACT | changed)
        return json.loads((tmp_path / "index" / "index.json").read_text())["fingerprint"]

    same = json.loads((built[0] / "index.json").read_text())["fingerprint"]
    assert fingerprint(corpus) == same  # a rebuild of an exact index is the same index
    retitled = [dataclasses.replace(corpus[0], title="Another"), *corpus[1:]]
    others = [
        fingerprint(retitled),
        fingerprint(corpus[:-1]),
        fingerprint(corpus, dims=128),
        fingerprint(corpus, near_duplicate=0.99),
        fingerprint(corpus, index="scann"),
    ]
    assert len({same, *others}) == 6


def test_recall_below_the_floor_fails_and_leaves_what_was_there(tmp_path, corpus):
    pytest.importorskip("scann", reason="the extra 'retrieval' is not installed")
    directory = tmp_path / "index"
    build.build_index(directory, corpus, EXACT)
    before = (directory / "index.json").read_bytes()
    narrow = {"index": "scann", "scann": {"method": "tree", "leaves": 100, "leaves_to_search": 1, "reorder": 1}}
    message = (
        r"index: recall@10 of scann, tree \(100 leaves, 1 searched, 1 reordered\), against exact search is 0\.\d+ on "
        r"256 probes, under retrieval\.recall_floor = 0\.95; raise retrieval\.scann\.leaves_to_search"
    )
    with pytest.raises(build.RecallError, match=message):
        build.build_index(directory, corpus, narrow)
    assert (directory / "index.json").read_bytes() == before
    # The vectors wait for a build with other index settings.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "index.vectors"]
    build.build_index(directory, corpus, narrow | {"recall_floor": 0.0})
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_more_than_the_machine_has_is_refused_before_any_work(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(capacity, "_memory_available", lambda: 1 << 20)
    with pytest.raises(ValueError, match=r"of memory to build, 1 MB are available: lower retrieval\.scann\.shard_size"):
        build.build_index(tmp_path / "index", corpus, EXACT)
    monkeypatch.undo()
    huge = capacity.need(10**12, 384, None)
    with pytest.raises(ValueError, match=r"MB of disk to build, .* are available: free some under"):
        huge.check(tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_shards_bound_the_memory_that_a_build_needs():
    whole, parts = (
        capacity.need(21_000_000, 384, scann_index.plan(ScannSettings(shard_size=size), 21_000_000))
        for size in (21_000_000, 1_000_000)
    )
    assert parts.build < whole.build / 5 and parts.serve == whole.serve and parts.disk == whole.disk


def test_a_reader_always_finds_a_folder(tmp_path):
    """One thread replaces, another opens by name: there is no moment without a generation."""

    def generation(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        return tmp_path / name

    index_store.replace(generation("new"), tmp_path / "index")
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append((tmp_path / "index").is_dir())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        index_store.replace(generation("new"), tmp_path / "index")
    stop.set()
    reader.join()
    assert all(seen) and [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_replaced_while_it_is_loaded_is_loaded_again(tmp_path):
    """The first reading finds the old file and then the new folder; what comes back is of one generation."""
    for name in ("index", "partial"):
        (tmp_path / name).mkdir()
        for file in "ab":
            (tmp_path / name / file).write_text(name)

    def load():
        first = (tmp_path / "index" / "a").read_text()
        if (tmp_path / "partial").exists():
            index_store.replace(tmp_path / "partial", tmp_path / "index")
        return first, (tmp_path / "index" / "b").read_text()

    assert index_store.settled(tmp_path / "index", load) == ("partial", "partial")
    with pytest.raises(FileNotFoundError):
        index_store.settled(tmp_path / "index", (tmp_path / "nowhere").read_text)


def test_a_file_system_without_exchange_replaces_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "_exchange", lambda one, other: False)
    for text in "ab":
        (tmp_path / "partial").mkdir()
        (tmp_path / "partial" / "file").write_text(text)
        index_store.replace(tmp_path / "partial", tmp_path / "index")
        assert (tmp_path / "index" / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_the_tuner_takes_the_fewest_leaves_that_reach_the_floor(tmp_path):
    pytest.importorskip("scann", reason="the extra 'retrieval' is not installed")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    settings = ScannSettings("tree", leaves=50)
    index = scann_index.build_scann(vectors, scann_index.plan(settings, 2000), tmp_path)
    truth = recall_check.Truth(vectors, vectors[::20] + np.float32(0.05))
    chosen, tried = tuning.tune(index, truth, settings, 0.9)
    assert truth.measure(chosen) >= 0.9
    assert min(row["us_a_query"] for row in tried) == next(
        row["us_a_query"] for row in tried if row["reorder"] == chosen.plan.reorder
    )
    steps = tuning._widths(50)
    below = steps[steps.index(chosen.plan.leaves_to_search) - 1]
    narrower = truth.shares(index.searching(below, chosen.plan.reorder))
    assert min(narrower[::2].mean(), narrower[1::2].mean()) < 0.9
    fixed = ScannSettings("tree", leaves=50, leaves_to_search=50, reorder=300)
    assert tuning.tune(index.searching(50, 300), truth, fixed, 0.9)[0].plan == index.searching(50, 300).plan


def test_what_is_left_open_is_tuned_until_the_floor_is_reached(tmp_path, corpus, store):
    pytest.importorskip("scann", reason="the extra 'retrieval' is not installed")
    tree = {"index": "scann", "scann": {"method": "tree", "leaves": 32, "reorder": 300}, "recall_floor": 0.9}
    report = build.build_index(tmp_path / "index", corpus, tree)
    searched = scann_index.ScannIndex.load(tmp_path / "index" / "index").plan.leaves_to_search
    assert report["recall_at_10"] >= 0.9 and f"{searched} searched" in report["method"]
    assert [(row["leaves_to_search"], row["reorder"]) for row in report["tried"]] == [(searched, 300)]
    assert SearchTool.load(tmp_path / "index", store).search(QUERIES, 3)[0]


def test_damage_is_noticed(tmp_path, corpus, store):
    build.build_index(tmp_path / "index", corpus, EXACT)
    with pytest.raises(FileNotFoundError, match="nowhere/index.json does not exist; build the index again"):
        SearchTool.load(tmp_path / "nowhere", store)
    vectors = tmp_path / "index" / "index" / "vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    with pytest.raises(ValueError, match="vectors.npy has changed since the index was built"):
        SearchTool.load(tmp_path / "index", store)
    vectors.unlink()
    with pytest.raises(FileNotFoundError, match="vectors.npy is missing"):
        SearchTool.load(tmp_path / "index", store)
    contents = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(contents | {"format": 99}))
    with pytest.raises(ValueError, match="format is 99"):
        SearchTool.load(tmp_path / "index", store)


def test_another_store_is_noticed(tmp_path, corpus, built):
    changed = [dataclasses.replace(p, text=p.text + " more") if p.id == 150 else p for p in corpus]
    for passages in (changed, corpus[:200]):
        records.write(tmp_path / "p.array_record", passages)
        with pytest.raises(ValueError, match="was built from other passages than"):
            SearchTool.load(built[0], PassageStore(tmp_path / "p.array_record"))


def test_bad_input_gets_an_error_before_work(tmp_path, corpus):
    for passages, config, message in (
        ([], EXACT, "0 passages to index"),
        ([corpus[1], corpus[0]], EXACT, "passage 0 follows passage 1"),
        (corpus, EXACT | {"leaves": 3}, r"retrieval\.leaves is no setting"),
    ):
        with pytest.raises(ValueError, match=message):
            build.build_index(tmp_path / "index", passages, config)
    assert not list(tmp_path.iterdir())


def test_progress_reaches_the_total(tmp_path, corpus):
    seen = {}
    build.build_index(tmp_path / "index", corpus, EXACT, lambda stage, done, total: seen.update({stage: (done, total)}))
    assert seen["encode"] == (300, 300)


def test_probes_are_cut_from_their_passages(corpus):
    probes = recall_check.probes(corpus, 60)
    assert len(probes) == 60
    texts = [passage.text for passage in corpus]
    assert all(len(probe.split()) == 8 and any(probe in text for text in texts) for probe in probes)
    assert probes == recall_check.probes(corpus, 60)


def test_recall_counts_the_exact_top_rows():
    vectors = np.eye(4, dtype=np.float32)
    queries = np.array([[4, 3, 2, 1], [1, 2, 3, 4], [0, 0, 0, 0]], np.float32) / np.sqrt(30, dtype=np.float32)

    class Half:
        """Finds the best row and then the worst one."""

        def __init__(self):
            self.vectors = vectors

        def search(self, queries, k):
            rows = np.argsort(-queries, axis=1)[:, [0, 3]]
            return rows, np.take_along_axis(queries, rows, 1)

    assert recall_check.Truth(vectors, queries, k=2).measure(Half()) == 0.5


def test_digest_sees_every_field(corpus):
    fields = {"id": 9, "article_id": 9, "title": "x", "text": "x", "split": "test"}
    digests = {index_store.digest(dataclasses.replace(corpus[0], **{name: value})) for name, value in fields.items()}
    assert len(digests | {index_store.digest(corpus[0])}) == 6
