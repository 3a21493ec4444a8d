"""Apache Beam's shards against one process: the same records, also after a kill. Needs the extra `beam`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf
from array_record.python import array_record_module

from configs import prepare as page
from masksearch_jax.data import pipeline as data_pipeline
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.prep.beam.shard_store import Store
from masksearch_jax.prep.tasks import registry
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.workflows import data_preparation

pytest.importorskip("apache_beam")
ROOT = Path(__file__).parents[2]


def small(runner, **changes):
    config = page.get_config()
    config.entities = 240
    config.tasks.epochs = 2
    config.indices = ()
    config.toy_benchmarks = 0
    config.beam.runner = runner
    config.beam.shard_mb = 0.1
    config.update(changes)
    return config


@pytest.fixture
def two_tasks(monkeypatch):
    monkeypatch.setattr(registry, "MASKS", (1, 2))
    monkeypatch.setattr(registry, "MIXTURES", {"ramp_1_2": (1, 2)})


def raw_records(data):
    """{path without shard: the bytes of its records, in order} of passages, annotated examples and tasks."""
    found = {}
    for file in sorted([*data.glob("*.array_record"), *(data / "tasks").rglob("*.array_record")]):
        reader = array_record_module.ArrayRecordReader(str(file))
        found.setdefault(records.unsharded(file).relative_to(data).as_posix(), []).extend(reader.read_all())
        reader.close()
    for file in sorted((data / "annotated").glob("*.tfrecord")):
        name = records.unsharded(file).relative_to(data).as_posix()
        found.setdefault(name, []).extend(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    return found


def report_of(data):
    report = json.loads((data / "report.json").read_text())
    return {name: value for name, value in report.items() if "second" not in name and name != "indices"}


def assert_equal(one, by_shards):
    wanted, found = raw_records(one), raw_records(by_shards)
    assert wanted.keys() == found.keys()
    for name in wanted:
        assert wanted[name] == found[name], name  # in order, which is more than the same multiset
    for name in ("tokenizer.model", "augment.json", "annotated/tasks.json"):
        assert (one / name).read_bytes() == (by_shards / name).read_bytes(), name
    assert report_of(one) == report_of(by_shards)


def test_the_toy_by_beam_is_the_toy_by_one_process(two_tasks, tmp_path):
    one, by_shards = tmp_path / "one", tmp_path / "shards"
    searched = {"indices": ("train",), "retrieval": {"index": "exact", "dims": 256}}
    data_preparation.run(small("", **searched), one)
    written = data_preparation.run(small("DirectRunner", **searched), by_shards)
    assert_equal(one / "data", by_shards / "data")
    # What trains and searches reads the same of either.
    streams, indices = [], []
    for data in (one / "data", by_shards / "data"):
        curriculum = Curriculum(((None, {"ramp_1": 0.5, "ramp_2": 0.5}),))
        stream = data_pipeline.tasks(data / "tasks", "train", curriculum, seed=0, tokenizer_fingerprint="t")
        streams.append([next(stream) for _ in range(400)])
        indices.append(json.loads((data / "index" / "train" / "index.json").read_text())["passages_sha256"])
        tool = SearchTool.load(data / "index" / "train", PassageStore(data / "passages.array_record"), "none")
        assert tool.search([Query(streams[0][0].title)], 3)[0]
    assert streams[0] == streams[1] and indices[0] == indices[1]
    assert len(list((by_shards / "data").glob("passages-*.array_record"))) > 1
    assert [path.name for path in by_shards.iterdir()] == ["data"]
    assert data_preparation.run(small("", **searched), by_shards) == written  # already prepared, by whomever
    listed = {name for name in written["files"] if name.startswith("tasks/")}
    assert any("-00001-of-" in name for name in listed)
    settings = registry.register(by_shards / "data")  # and SeqIO finds the shards
    assert settings.passages["train"] == sum(written["examples"]["train"]["ramp_1"]) // 2


def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path):
    for changes, message in (
        ({"beam.shard_mb": 0.0}, "beam.shard_mb=0.0"),
        ({"beam.runner": "DataflowRunner"}, "beam.folder='': workers of Dataflow need a bucket"),
        ({"dump": "gs://bucket/dump.xml.bz2"}, "needs a multistream dump and its index"),
        ({"beam.index": "missing.txt"}, "missing.txt: no such file"),
    ):
        config = small("DirectRunner")
        config.update_from_flattened_dict(changes)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            data_preparation.run(config, tmp_path / "w")
    corpus = tmp_path / "corpus.json"
    corpus.write_text("[]")
    with pytest.raises(ValueError, match="a corpus is read whole"):
        data_preparation.run(small("DirectRunner", dump=str(corpus)), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_shards_of_other_settings_are_refused(two_tasks, tmp_path):
    store = Store(tmp_path / "data.shards")
    store.write("settings.json", {"seed": 3}, tmp_path)
    with pytest.raises(ValueError, match=r"unfinished preparation with other settings: .*seed was 3, is 0"):
        data_preparation.run(small("DirectRunner"), tmp_path)


def test_a_damaged_page_is_an_error_that_names_the_part(two_tasks, tmp_path):
    page_of = "<page><title>{}</title><ns>0</ns><id>{}</id><revision><text>A b c.</text>{}</revision></page>"
    pages = [page_of.format(f"T{i}", i, "</oops>" if i == 5 else "") for i in range(10)]
    dump = tmp_path / "dump.xml"
    dump.write_text("<mediawiki>" + "".join(pages) + "</mediawiki>")
    config = small("DirectRunner", dump=str(dump))
    with pytest.raises(ValueError, match="source/pages-00000.xml.gz.* read up to page 5 .*'T4'.*skip_bad=True"):
        data_preparation.run(config, tmp_path / "w")


def test_files_through_the_file_systems_of_beam(tmp_path):
    """The way of gs:// paths, over the local disk."""
    store = Store(tmp_path / "root")
    (tmp_path / "root").mkdir()
    store._remote = True
    local = tmp_path / "file.xml.gz"
    local.write_bytes(b"\x1f\x8b not decompressed")
    for _ in range(2):
        store.put(local, "file.xml.gz")
    assert store.has("file.xml.gz") and not store.has("other")
    assert store.get("file.xml.gz", tmp_path / "new" / "copy").read_bytes() == local.read_bytes()
    assert store.write("a.json", {"x": [1]}, tmp_path) == store.read("a.json") == {"x": [1]}
    assert store.read("b.json") is None
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["a.json", "file.xml.gz"]


@pytest.mark.slow
@pytest.mark.parametrize("filtered", [False, True])
def test_the_real_slice_by_beam_is_that_of_one_process(tmp_path, filtered):
    folder = os.environ.get("MASKSEARCH_DATA")
    if not folder:
        pytest.skip("MASKSEARCH_DATA is not set: the real slice is not here")
    for runner in ("", "DirectRunner"):
        config = small(runner, dump=str(Path(folder) / "enwiki-shortened.xml.bz2"))
        config.beam.shard_mb = 2.0
        if filtered:
            config.filters.near_duplicate = 0.1
            config.filters.benchmarks = (f"hotpotqa={Path(folder) / 'hotpotqa_100.json.gz'}",)
            config.filters.ngram = 4
        data_preparation.run(config, tmp_path / (runner or "one"))
    assert_equal(tmp_path / "one" / "data", tmp_path / "DirectRunner" / "data")
    dropped = report_of(tmp_path / "one" / "data")["passages_dropped"]
    assert set(dropped) == ({"benchmark_ngram", "near_duplicate"} if filtered else set())


@pytest.mark.slow
def test_killed_twice_and_run_again_is_never_killed(tmp_path):
    command = [
        sys.executable, "-m", "masksearch_jax.prepare", "--config=configs/prepare.py", f"--workdir={tmp_path / 'w'}",
        "--config.entities=240", "--config.tasks.epochs=2", "--config.indices=()", "--config.toy_benchmarks=0",
        "--config.beam.runner=DirectRunner",
        "--config.beam.shard_mb=0.1",
    ]  # fmt: skip
    shards = tmp_path / "w" / "data.shards"
    kept = {}
    for pattern in ("annotated/done-00001-*.json", "job-*/done-00000-*.json"):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 300
        while not list(shards.glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline, pattern
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        markers = [*shards.glob("cut/done-*.json"), *shards.glob("annotated/done-*.json"), *shards.glob("job*/done-*")]
        for path, changed in kept.items():
            assert path.stat().st_mtime_ns == changed  # a finished shard is not done again
        kept = {path: path.stat().st_mtime_ns for path in markers}
        assert kept and not (tmp_path / "w" / "data").exists()
    assert any(path.parent.name.startswith("job-") for path in kept)
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    config = small("")
    data_preparation.run(config, tmp_path / "one")
    assert_equal(tmp_path / "one" / "data", tmp_path / "w" / "data")
