"""A killed encoding goes on where it stopped, bit for bit; what does not belong to the corpus is refused by name."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masksearch_jax.retrieval.encoders import encoder, lexical
from masksearch_jax.retrieval.index import build, corpus_vectors
from masksearch_jax.retrieval.index.corpus_vectors import CorpusVectors

ROWS = 64


class Killed(BaseException):
    pass


class Counting:
    """An encoder that counts what it encodes, and dies before one of its calls."""

    def __init__(self, inner, dies_at=None):
        self.inner, self.dies_at, self.calls = inner, dies_at, 0
        self.dims, self.fingerprint = inner.dims, inner.fingerprint

    def encode_passages(self, texts):
        if self.calls == self.dies_at:
            raise Killed
        self.calls += 1
        return self.inner.encode_passages(texts)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(corpus_vectors, "PART_ROWS", ROWS)


@pytest.fixture(scope="module")
def texts(corpus):
    return [encoder.passage_text(passage.title, passage.text) for passage in corpus]


@pytest.fixture(scope="module")
def made(texts):
    return lexical.LexicalEncoder.fit(texts, 128)


def test_killed_and_resumed_equals_never_killed_without_encoding_twice(tmp_path, texts, made):
    first, second = Counting(made, dies_at=3), Counting(made)
    with pytest.raises(Killed):
        CorpusVectors(tmp_path / "v", first, "p", len(texts)).encode(texts)
    (tmp_path / "v/part-00003.npy.elsewhere.1.tmp").write_bytes(b"half")  # what a kill amid writing leaves
    resumed = CorpusVectors(tmp_path / "v", second, "p", len(texts))
    seen = []
    resumed.encode(texts, lambda done, total: seen.append((done, total)))
    assert (first.calls, second.calls) == (3, 2)  # 300 passages are 5 parts
    assert seen == [(64, 300), (128, 300), (192, 300), (256, 300), (300, 300)]
    found = resumed.open()
    assert isinstance(found, np.memmap) and not found.flags.writeable and found.dtype == np.float32
    np.testing.assert_array_equal(found, made.encode_passages(texts))

    again = CorpusVectors(tmp_path / "v", Counting(made, dies_at=0), "p", len(texts))
    again.encode(texts)
    np.testing.assert_array_equal(again.open(), found)
    assert sorted(path.name for path in (tmp_path / "v").glob("*.npy")) == ["vectors.npy"]


def test_two_hosts_may_open_at_the_same_time(tmp_path, texts, made, monkeypatch):
    first, second = (CorpusVectors(tmp_path / "v", made, "p", len(texts)) for _ in range(2))
    first.encode(texts)
    read = CorpusVectors._read

    def other_is_faster(self, number):
        if self is second and number == 2:
            first.open()  # joins the parts and removes them
        return read(self, number)

    monkeypatch.setattr(CorpusVectors, "_read", other_is_faster)
    np.testing.assert_array_equal(second.open(), made.encode_passages(texts))
    assert not list((tmp_path / "v").glob("*.tmp"))


def test_a_process_killed_by_the_system_goes_on(tmp_path, texts, made):
    (tmp_path / "encoder").mkdir()
    made.save(tmp_path / "encoder")
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = """
import json, os, signal, sys
from masksearch_jax.retrieval.encoders import encoder
from masksearch_jax.retrieval.index import corpus_vectors
corpus_vectors.PART_ROWS = int(sys.argv[2])
texts, made = json.load(open(sys.argv[1] + "/texts.json")), encoder.load(sys.argv[1] + "/encoder")
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 2 * corpus_vectors.PART_ROWS else None
corpus_vectors.CorpusVectors(sys.argv[1] + "/v", made, "p", len(texts)).encode(texts, kill)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(ROWS)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    counting = Counting(encoder.load(tmp_path / "encoder"))
    resumed = CorpusVectors(tmp_path / "v", counting, "p", len(texts))
    resumed.encode(texts)
    assert counting.calls == 3
    np.testing.assert_array_equal(resumed.open(), made.encode_passages(texts))


def test_hosts_divide_the_parts(tmp_path, texts, made):
    hosts = [Counting(made) for _ in range(2)]
    vectors = [CorpusVectors(tmp_path / "v", host, "p", len(texts)) for host in hosts]
    vectors[1].encode(texts, process_index=1, process_count=2)
    with pytest.raises(FileNotFoundError, match=r"v: 3 of 5 parts are not encoded yet \(0, 2, 4\); wait for the other"):
        vectors[1].open()
    vectors[0].encode(texts, process_index=0, process_count=2)
    assert [host.calls for host in hosts] == [3, 2]
    for one in vectors:
        np.testing.assert_array_equal(one.open(), made.encode_passages(texts))
    with pytest.raises(ValueError, match="process_index is 2, must lie between 0 and 1"):
        vectors[0].encode(texts, process_index=2, process_count=2)


def test_another_corpus_or_encoder_is_refused_once_there_are_vectors(tmp_path, texts, made):
    CorpusVectors(tmp_path / "v", made, "other", len(texts))  # nothing encoded yet: nothing to lose
    CorpusVectors(tmp_path / "v", made, "p", len(texts)).encode(texts)
    with pytest.raises(ValueError, match=r"v holds vectors of an earlier build that differs in passages_sha256; .*rm"):
        CorpusVectors(tmp_path / "v", made, "q", len(texts))
    other = lexical.LexicalEncoder.fit(texts, 64)
    with pytest.raises(ValueError, match=r"differs in encoder_fingerprint, shape; go back to its passages"):
        CorpusVectors(tmp_path / "v", other, "p", len(texts))
    (tmp_path / "v/vectors.json").unlink()
    with pytest.raises(ValueError, match=r"v holds vectors but no vectors\.json: rm -r"):
        CorpusVectors(tmp_path / "v", made, "p", len(texts))


def test_a_damaged_part_and_a_short_corpus_are_named(tmp_path, texts, made):
    vectors = CorpusVectors(tmp_path / "v", made, "p", len(texts))
    with pytest.raises(ValueError, match="the corpus ended after 70 texts, 300 were announced"):
        vectors.encode(texts[:70])
    vectors.encode(texts)
    (tmp_path / "v/part-00001.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"part-00001\.npy is damaged .*; remove it and run the build again"):
        vectors.open()
    np.save(tmp_path / "v/part-00001.npy", np.zeros((3, 128), np.float32))
    with pytest.raises(ValueError, match=r"part-00001\.npy is float32 \(3, 128\), not float32 \(64, 128\); remove it"):
        vectors.open()


@pytest.mark.parametrize("kept", [False, True])
def test_a_killed_build_goes_on_and_makes_the_same_index(tmp_path, corpus, monkeypatch, kept):
    config, plain = {"index": "exact", "dims": 128}, build._encoder
    build.build_index(tmp_path / "never_killed", corpus, config)
    arguments = (tmp_path / "index", corpus, config, None, tmp_path / "waiting" if kept else None)
    waiting = tmp_path / ("waiting" if kept else "index.vectors")

    monkeypatch.setattr(build, "_encoder", lambda *args: Counting(plain(*args), dies_at=2))
    with pytest.raises(Killed):
        build.build_index(*arguments)
    assert len(list(waiting.glob("part-*.npy"))) == 2 and not (tmp_path / "index").exists()
    counting = []
    monkeypatch.setattr(build, "_encoder", lambda *args: counting.append(Counting(plain(*args))) or counting[0])
    build.build_index(*arguments)
    assert counting[0].calls == 3 and waiting.exists() == kept
    identities = [json.loads((tmp_path / name / "index.json").read_text()) for name in ("index", "never_killed")]
    assert identities[0]["fingerprint"] == identities[1]["fingerprint"]
