"""JSON files: what is written is read back, and what is damaged is named."""

import pytest

from masksearch_jax.runtime import json_files


def test_written_values_are_read_back(tmp_path):
    value = {"a": [1, 2.5, None, True], "é": "−5\n"}
    path = tmp_path / "new" / "file.json"
    json_files.write_json(path, value)
    assert json_files.read_json_object(path, "") == value
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "two entries 'a'"),
        (b"[1]", "holds a JSON list"),
        (b"{}", "has no 'a', 'b'"),
    ],
)
def test_a_bad_file_is_named_with_the_next_step(tmp_path, data, says):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(ValueError) as raised:
        json_files.read_json_object(path, "run prepare again", required=("a", "b"))
    assert str(path) in str(raised.value)
    assert says in str(raised.value)
    assert str(raised.value).endswith("run prepare again")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json does not exist; run it"):
        json_files.read_json(tmp_path / "nothing.json", "run it")
    with pytest.raises(ValueError, match="cannot be read"):
        json_files.read_json(tmp_path, "run it")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert json_files.read_json(path, "") == {"a": 1}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    json_files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        json_files.write_json(path, {"a": object()})
    assert json_files.read_json(path, "") == {"a": 1}
    (tmp_path / "plain").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        json_files.write_json(tmp_path / "plain" / "file.json", {})
