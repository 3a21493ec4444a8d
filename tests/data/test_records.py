"""Record files: shards as one file, positions, and damage that is named with the next command."""

import errno
from pathlib import Path

import msgpack
import pytest
from array_record.python import array_record_module

from masksearch_jax.data import curriculum, records
from masksearch_jax.data.records import Passage


def passages(first, count):
    return [Passage(id, id // 2, f"T{id}", "x" * 100, "train") for id in range(first, first + count)]


@pytest.fixture
def sharded(tmp_path):
    path = tmp_path / "passages.array_record"
    for index, (first, count) in enumerate([(0, 3), (3, 0), (3, 4)]):
        records.write(records.shard(path, index, 3), passages(first, count))
    return path


def damage(file):
    """Overwrite the first record, and leave the end of the file, which says where records are."""
    data = bytearray(file.read_bytes())
    data[64:120] = b"\xff" * 56
    file.write_bytes(data)


def write_raw(path, *contents):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,zstd:3")
    for content in contents:
        writer.write(content)
    writer.close()


def test_shards_read_as_one_file(sharded):
    assert [path.name[-24:] for path in records.files(sharded)] == [
        f"0000{index}-of-00003.array_record"[-24:] for index in range(3)
    ]
    assert list(records.read(sharded, Passage)) == passages(0, 7)
    found = records.RandomAccess(sharded, Passage)
    assert len(found) == 7 and found.get([]) == []
    assert [one.id for one in found.get([6, 0, 3, 2, 3])] == [6, 0, 3, 2, 3]


def test_a_missing_file_or_shard_is_named(sharded, tmp_path):
    with pytest.raises(FileNotFoundError, match="other.array_record does not exist; prepare it"):
        records.files(tmp_path / "other.array_record")
    records.shard(sharded, 1, 3).unlink()
    with pytest.raises(FileNotFoundError, match="2 of its shards .* missing: .'passages-00001-of-00003"):
        records.files(sharded)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full stands in /dev/full on Linux")
def test_a_full_disk_is_an_error_of_the_file(tmp_path):
    (tmp_path / "some.array_record.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        records.write(tmp_path / "some.array_record", passages(0, 3))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "some.array_record.partial")
    (tmp_path / "other.array_record.partial").mkdir()
    with pytest.raises(OSError, match="other.array_record.partial: .*directory"):
        records.write(tmp_path / "other.array_record", passages(0, 3))


def test_an_error_of_the_records_stays_what_it_is(tmp_path):
    def broken():
        yield passages(0, 1)[0]
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="^ours$"):
        records.write(tmp_path / "some.array_record", broken())


def test_damage_is_named_with_the_command_that_makes_the_file(tmp_path):
    for folder, command in (("demonstrations", "synthesize"), ("data", "prepare")):
        file = tmp_path / folder / "some.array_record"
        records.write(file, passages(0, 3))
        damage(file)
        says = f"some.array_record: one of the records .* cannot be read .*masksearch_jax.{command}`"
        with pytest.raises(ValueError, match=says):
            list(records.read(file, Passage))
        with pytest.raises(ValueError, match=says):
            records.RandomAccess(file, Passage).get([0, 1])
        file.write_bytes(b"no records")
        with pytest.raises(ValueError, match=f"its end, which says .*masksearch_jax.{command}`"):
            list(records.read(file, Passage))


def test_records_of_another_kind_are_named(tmp_path):
    file = tmp_path / "some.array_record"
    good, (one,) = records.encode(passages(0, 1)[0]), passages(0, 1)
    for content, says in (
        (msgpack.packb({"id": 1}), "record 1 cannot be read .*fields"),
        (b"\xc1", "record 1 cannot be read"),
        (b"", "record 1 cannot be read"),
    ):
        write_raw(file, good, content)
        with pytest.raises(ValueError, match=says):
            list(records.read(file, Passage))
        assert records.RandomAccess(file, Passage).get([0]) == [one]


def test_tasks_by_name():
    assert [records.masks_of(name) for name in ("ramp_3", "ramp_1_open", "qa", "3")] == [3, 0, 0, 0]
    task = records.Task("t", "ramp", "train", [3], [4], "spans", [["x"]] * 2, ["name"] * 2, "", "", "", 1, 1)
    assert task.task_name == "ramp_2" and task.stream_id == curriculum.stream_id("ramp_2")
    assert records.task_name("ramp", 2) == "ramp_2" and records.task_name("qa", 1) == "qa"
    demonstration = records.Demonstration("d", "t", 1, [1], [1], 1, 1.0)
    assert records.decode(records.Demonstration, records.encode(demonstration)) == demonstration
