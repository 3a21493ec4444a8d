"""Our tree as a published folder: the tensors bit for bit, the files that transformers wants, nothing overwritten."""

import json

import jax.numpy as jnp
import numpy as np
import published
import pytest
import safetensors.numpy

from masksearch_jax.model.published import export, families, load
from masksearch_jax.runtime import mesh as mesh_lib


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (2, 2, 2)), ("bfloat16", (1, 4, 2))])
def test_written_folders_hold_the_published_tensors_bit_for_bit(dtype, shape, tmp_path):
    case = "gemma3"
    cfg, params = load.load_pretrained(published.write(tmp_path / "hf", case), mesh_lib.make_mesh(*shape))
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    (tmp_path / "hf" / "generation_config.json").write_text('{"eos_token_id": 3}')
    export.save_pretrained(tmp_path / "out", cfg, params, like=tmp_path / "hf", dtype=dtype, shard_bytes=60_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files == sorted(set(index["weight_map"].values()))
    found = {}
    for file in files:
        assert (tmp_path / "out" / file).stat().st_size < 70_000
        held = safetensors.numpy.load_file(tmp_path / "out" / file)
        assert all(index["weight_map"][name] == file for name in held)
        found |= held
    assert sum(x.nbytes for x in found.values()) == index["metadata"]["total_size"]
    expected = published.weights(case)
    assert set(found) == set(expected)
    for name, x in found.items():
        np.testing.assert_array_equal(x, expected[name].astype(jnp.dtype(dtype)))
    assert (tmp_path / "out" / "generation_config.json").read_text() == '{"eos_token_id": 3}'
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert not (tmp_path / "out.part").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == dtype and families.from_hf(config) == cfg


def test_a_full_folder_is_not_overwritten(tmp_path):
    cfg, params = load.load_pretrained(published.write(tmp_path / "hf", "llama3"), mesh_lib.make_mesh(1, 1, 1))
    with pytest.raises(FileExistsError, match="hf is not empty"):
        export.save_pretrained(tmp_path / "hf", cfg, params)
