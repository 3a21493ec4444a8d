import json
import struct

import numpy as np
import pytest

from masksearch_jax.model.convert import read_safetensors


def test_reads_a_file_written_from_the_format_s_definition(tmp_path):
    """8 bytes of header length, a JSON header with offsets, then the raw little-endian tensors."""
    a, b = np.arange(6, dtype="<f4").reshape(2, 3), np.array([7, -1], "<i8")
    header = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + a.tobytes() + b.tobytes())
    found = read_safetensors(tmp_path / "m.safetensors")
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"], a)
    np.testing.assert_array_equal(found["b"], b)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.safetensors does not exist"):
        read_safetensors(tmp_path / "none.safetensors")
