"""Weights of safetensors folders in our tree: exact, sharded, with every disagreement named in one message."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import safetensors.numpy

from masksearch_jax.model.published import export, load
from masksearch_jax.model.published.safetensors_files import read_safetensors
from masksearch_jax.runtime import mesh as mesh_lib


def one_device():
    return mesh_lib.make_mesh(1, 1, 1)


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


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 4, 2), (1, 2, 4)])
def test_layouts_hold_the_same_numbers(shape, tmp_path, monkeypatch):
    """Sliced reads, in blocks of a few rows, against whole tensors turned by hand."""
    monkeypatch.setattr(load, "_BLOCK_BYTES", 700)
    case = "qwen3_untied"
    mesh = mesh_lib.make_mesh(*shape)
    cfg, params = load.load_pretrained(published.write(tmp_path / "hf", case, shards=2), mesh)
    raw = published.weights(case)
    at = "model.layers.1."
    d, n, h = cfg.embed, cfg.heads, cfg.head_dim
    attention, mlp = params["blocks"]["attention"], params["blocks"]["mlp"]
    expected = {
        "q": (attention["q"][1], raw[at + "self_attn.q_proj.weight"].T.reshape(d, n, h)),
        "o": (attention["o"][1], raw[at + "self_attn.o_proj.weight"].T.reshape(n, h, d)),
        "q_norm": (attention["q_norm"][1], raw[at + "self_attn.q_norm.weight"]),
        "down": (mlp["down"][1], raw[at + "mlp.down_proj.weight"].T),
        "norm": (params["blocks"]["mlp_norm"][1], raw[at + "post_attention_layernorm.weight"]),
        "embedding": (params["embedding"], raw["model.embed_tokens.weight"]),
        "unembedding": (params["unembedding"], raw["lm_head.weight"].T),
    }
    for got, wanted in expected.values():
        np.testing.assert_array_equal(got, wanted)
    layout = {name: x.sharding.spec for name, x in mlp.items()}
    if shape == (2, 2, 2):
        assert layout["down"] == jax.P(None, "tensor", "fsdp")


@pytest.mark.slow
def test_half_precision_files_and_bfloat16_parameters(tmp_path):
    folder = published.write(tmp_path / "hf", "qwen2", dtype=jnp.bfloat16)
    cfg, params = load.load_pretrained(folder, one_device(), param_dtype="bfloat16", dtype="bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"bfloat16"} and cfg.dtype == "bfloat16"
    _, wide = load.load_pretrained(folder, one_device())
    assert {x.dtype.name for x in jax.tree.leaves(wide)} == {"float32"}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(jnp.float32), b), params, wide)
    # A published model is read as it was stored: writing it again changes nothing.
    export.save_pretrained(tmp_path / "out", cfg, params)
    again = read_safetensors(tmp_path / "out" / "model.safetensors")
    for name, x in read_safetensors(folder / "model.safetensors").items():
        np.testing.assert_array_equal(again[name].astype(np.float32), x.astype(np.float32))


def test_missing_surplus_and_ill_shaped_are_named_in_one_error(tmp_path):
    folder = published.write(tmp_path / "hf", "qwen3")
    tensors = read_safetensors(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(80, np.float32)
    tensors["model.norm.weight"] = np.zeros(49, np.float32)
    tensors["model.layers.0.input_layernorm.weight"] = np.zeros(48, np.int8)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # a tied head may be stored twice
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load.load_pretrained(folder, one_device())
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{folder}: the weights are not those of its config.json")
    assert sorted(line.strip() for line in lines[1:]) == [
        "dtype: model.layers.0.input_layernorm.weight is I8, none of F32, F16, BF16",
        "missing: model.layers.1.mlp.up_proj.weight (72, 48)",
        "shape: model.norm.weight is (49,), the config says (48,)",
        "surplus: model.layers.0.self_attn.q_proj.bias (80,)",
    ]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        load.load_pretrained(tmp_path, one_device())
    folder = published.write(tmp_path / "hf", "qwen2", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003.safetensors of its index are missing"):
        load.load_pretrained(folder, one_device())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(published.CONFIGS["qwen2"]))
    (bare / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no model.safetensors; there are pytorch_model.bin"):
        load.load_pretrained(bare, one_device())


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_of_a_vision_checkpoint(prefix, tmp_path):
    plain = published.write(tmp_path / "plain", "gemma3")
    nested = published.write(tmp_path / "nested", "gemma3", rename=lambda n: n.replace("model.", prefix, 1))
    (nested / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": published.CONFIGS["gemma3"]})
    )
    tower = {"model.vision_tower.x": np.zeros(3, np.float32), "multi_modal_projector.y": np.zeros(3, np.float32)}
    language = read_safetensors(nested / "model.safetensors")
    safetensors.numpy.save_file(language | tower, nested / "model.safetensors")
    cfg, params = load.load_pretrained(nested, one_device())
    expected_cfg, expected = load.load_pretrained(plain, one_device())
    assert cfg == expected_cfg
    jax.tree.map(np.testing.assert_array_equal, params, expected)
