"""Checksums notice each bit that flips, in any file and in their own."""

import numpy as np
import pytest

from masksearch_jax.runtime import checksums

FILE = "sums.json"


def write(folder):
    checksums.write_checksums(folder, checksums.list_files(folder), FILE)


def verify(folder, *but):
    names = [name for name in checksums.list_files(folder) if name not in (FILE, *but)]
    return checksums.verify_checksums(folder, names, FILE)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("a", 100), ("sub/b", 1), ("sub/deep/c.json", 5000), ("empty", 0)):
        path = tmp_path / "f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(size))
    write(tmp_path / "f")
    return tmp_path / "f"


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_whole_folders_pass_and_every_flip_is_noticed(folder):
    assert verify(folder) == []
    rng = np.random.default_rng(1)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        for bit in rng.integers(0, path.stat().st_size * 8, 40):
            flip(path, bit)
            faults = verify(folder)
            assert len(faults) == 1 and str(path) in faults[0]
            flip(path, bit)
    assert verify(folder) == []


def test_lost_new_cut_and_swapped_files_are_named(folder):
    (folder / "new").write_text("x")
    assert verify(folder) == [f"{folder / 'new'} was not part of it"]
    assert verify(folder, "new") == []
    (folder / "new").unlink()
    (folder / "a").write_bytes((folder / "a").read_bytes()[:-1])
    assert verify(folder) == [f"{folder / 'a'} has 99 bytes, and 100 were written"]
    (folder / "a").unlink()
    assert verify(folder) == [f"{folder / 'a'} is missing"]
    (folder / FILE).unlink()
    assert "is missing, so nothing vouches" in verify(folder)[0]


def test_a_checksum_file_of_any_other_content_is_damaged(folder):
    for content in ("", "[]", "{}", '{"files": {}, "own": ""}', '{"files": 1, "own": "x"}', "\x00" * 40):
        (folder / FILE).write_text(content)
        faults = verify(folder)
        assert len(faults) == 1 and "is damaged" in faults[0], content
