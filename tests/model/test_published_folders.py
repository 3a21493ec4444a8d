"""Published folders load as what they say they are, or are refused by the name of the file; fuzzed folders too."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import published
import pytest
import safetensors.numpy
from fuzzing import fuzz
from hypothesis import strategies as st

from masksearch_jax.model import transformer
from masksearch_jax.model.config import LoraConfig
from masksearch_jax.model.published import load as convert
from masksearch_jax.model.published import peft, safetensors_files
from masksearch_jax.model.published.safetensors_files import INDEX, SINGLE, read_safetensors
from masksearch_jax.runtime import mesh as mesh_lib


def one_device():
    return mesh_lib.make_mesh(1, 1, 1)


def load(folder):
    return convert.load_pretrained(folder, one_device())


def sharded(tmp_path, case="qwen2"):
    return published.write(tmp_path / "hf", case, shards=2)


def change_index(folder, change):
    path = folder / INDEX
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_index_decides_where_two_shards_hold_a_tensor(tmp_path):
    folder = sharded(tmp_path)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    expected = load(folder)[1]["final_norm"]
    other = next(folder / file for file in set(places.values()) if file != places["model.norm.weight"])
    stray = {"model.norm.weight": np.full_like(published.weights("qwen2")["model.norm.weight"], 6.0)}
    safetensors.numpy.save_file(read_safetensors(other) | stray, other)
    np.testing.assert_array_equal(load(folder)[1]["final_norm"], expected)


def test_stray_files_beside_a_single_one_are_not_read(tmp_path):
    folder = published.write(tmp_path / "hf", "qwen2")
    expected = load(folder)[1]
    stray = {name: np.full_like(x, 9.0) for name, x in read_safetensors(folder / SINGLE).items()}
    for name in ("a_old.safetensors", "old.safetensors"):
        safetensors.numpy.save_file(stray, folder / name)
    jax.tree.map(np.testing.assert_array_equal, load(folder)[1], expected)


def _no_map(folder):
    change_index(folder, lambda content: content.pop("weight_map"))


def _outside(folder):
    change_index(folder, lambda content: content["weight_map"].update({"model.norm.weight": "../x.safetensors"}))


def _not_there(folder):
    change_index(folder, lambda content: content["weight_map"].update({"model.lost.weight": _shard(folder).name}))


def _unnamed(folder):
    change_index(folder, lambda content: content["weight_map"].pop("model.norm.weight"))


def _cut(folder):
    _shard(folder).write_bytes(_shard(folder).read_bytes()[:-100])


def _pointer(folder):
    _shard(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def _no_index(folder):
    (folder / INDEX).unlink()


def _both(folder):
    shutil.copyfile(_shard(folder), folder / SINGLE)


def _shard(folder):
    return folder / "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_map, f"{INDEX} has no 'weight_map'"),
        (_outside, f"{INDEX} says that model.norm.weight is in '../x.safetensors'"),
        (_not_there, "model-00001-of-00002.safetensors lacks the tensor model.lost.weight"),
        (_unnamed, "holds model.norm.weight, which model.safetensors.index.json does not name"),
        (_cut, "model-00001-of-00002.safetensors is cut, damaged"),
        (_pointer, "model-00001-of-00002.safetensors is a pointer of git-lfs"),
        (_no_index, "and no model.safetensors.index.json that says which"),
        (_both, "model.safetensors.index.json that does not name it"),
    ],
)
def test_files_that_disagree_are_refused_by_name(damage, says, tmp_path):
    folder = sharded(tmp_path)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        load(folder)
    assert says in str(raised.value) and str(folder) in str(raised.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_that_are_not_finite_are_refused(value, dtype, tmp_path):
    folder = published.write(tmp_path / "hf", "qwen2", dtype=jax.numpy.dtype(dtype))
    held = read_safetensors(folder / SINGLE)
    name = "model.layers.1.mlp.down_proj.weight"
    held[name] = held[name].copy()
    held[name][3, 5] = value
    safetensors.numpy.save_file(held, folder / SINGLE)
    with pytest.raises(ValueError, match=f"{SINGLE}: the tensor {name} holds values that are not finite"):
        load(folder)
    with pytest.raises(ValueError, match="not finite"):  # the encoder's way of reading
        read_safetensors(folder / SINGLE)


def test_a_tied_head_that_is_another_matrix_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_BLOCK_BYTES", 700)
    folder = published.write(tmp_path / "hf", "qwen3")
    expected = load(folder)[1]
    held = read_safetensors(folder / SINGLE)
    held["lm_head.weight"] = held["model.embed_tokens.weight"].copy()
    safetensors.numpy.save_file(held, folder / SINGLE)
    jax.tree.map(np.testing.assert_array_equal, load(folder)[1], expected)
    held["lm_head.weight"][-1, -1] += 1
    safetensors.numpy.save_file(held, folder / SINGLE)
    with pytest.raises(ValueError, match="tie_word_embeddings.*lm_head.weight is another matrix"):
        load(folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(load(folder)[1]["unembedding"], held["lm_head.weight"].T)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """(config of the model with adapters, folder of a PEFT adapter)."""
    parent = tmp_path_factory.mktemp("adapter")
    folder = published.write(parent / "hf", "qwen2")
    cfg, params = load(folder)
    cfg = type(cfg)(**{**vars(cfg), "lora": LoraConfig(3, 6.0, targets=("q", "v"))})
    with jax.set_mesh(one_device()):
        params = transformer.adapt(cfg, params, 0, one_device())
    peft.save(parent / "peft", cfg, params["adapters"], "a/base")
    return cfg, parent / "peft"


def changed_adapter(adapter, tmp_path, change):
    folder = tmp_path / "peft"
    shutil.copytree(adapter[1], folder)
    content = json.loads((folder / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa"}, {"init_lora_weights": "pissa_niter_16"}, {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"}, {"init_lora_weights": "loftq"}, {"layer_replication": [[0, 1], [0, 2]]},
        {"trainable_token_indices": [1, 2]}, {"modules_to_save": ["lm_head"]}, {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"q_proj": 8}}, {"use_rslora": True}, {"use_dora": True}, {"bias": "lora_only"},
        {"fan_in_fan_out": True}, {"lora_bias": True}, {"target_parameters": ["x"]}, {"layers_to_transform": [0]},
        {"exclude_modules": ["q_proj"]}, {"use_qalora": True}, {"megatron_config": {"a": 1}}, {"of_tomorrow": 1},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)  # fmt: skip
def test_a_kind_of_adapter_that_is_not_computed_is_refused_by_name(change, adapter, tmp_path):
    folder = changed_adapter(adapter, tmp_path, change)
    (name,) = change
    with pytest.raises(ValueError, match=f"adapter_config.json.*{name} = .*only plain LoRA"):
        peft.load(folder, adapter[0], one_device())


def test_settings_of_an_adapter_that_change_nothing_are_accepted(adapter, tmp_path):
    change = {
        "init_lora_weights": True, "peft_version": "0.18.0", "megatron_core": "megatron.core", "loftq_config": {},
        "layers_pattern": None, "qalora_group_size": 16, "lora_dropout": 0.05, "of_tomorrow": None, "eva_config": None,
    }  # fmt: skip
    folder = changed_adapter(adapter, tmp_path, change)
    expected = peft.load(adapter[1], adapter[0], one_device())
    jax.tree.map(np.testing.assert_array_equal, peft.load(folder, adapter[0], one_device()), expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
        ({"hidden_size": "56"}, "hidden_size = '56'"),
        ({"vocab_size": True}, "vocab_size = True"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"rope_scaling": "linear"}, "value of the wrong kind"),
        ({"layer_types": 7, "use_sliding_window": True, "sliding_window": 4}, "value of the wrong kind"),
    ],
)
def test_values_of_the_wrong_kind_in_a_config_are_named(change, says, tmp_path):
    folder = published.write(tmp_path / "hf", "qwen2")
    (folder / "config.json").write_text(json.dumps(published.CONFIGS["qwen2"] | change))
    with pytest.raises(ValueError, match="config.json") as raised:
        load(folder)
    assert says in str(raised.value)


# --- Fuzzed folders --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, its parameters) of a sharded checkpoint."""
    folder = published.write(tmp_path_factory.mktemp("fuzz") / "hf", "qwen3", shards=2)
    return folder, load(folder)[1]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)


def assert_right_or_named(call, folder: Path):
    """`call` returns, or raises a documented error that names a file of the folder."""
    try:
        return call()
    except (ValueError, FileNotFoundError) as error:
        assert str(folder) in str(error), error
    return None


@fuzz(
    st.sampled_from([INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
    st.sampled_from([1.0, 1.0, 0.5, 0.99]),
    st.booleans(),
    examples=40,
)
def test_fuzz_bytes_of_a_published_folder(whole, tmp_path, name, flips, share, in_head):
    """Flipped and cut bytes. Numbers alone can change in silence (nothing vouches for them), never shape or place."""
    folder, expected = whole
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    data = bytearray((copy / name).read_bytes())
    reach = min(2000, len(data)) if in_head else len(data)
    for where, flip in flips:
        data[min(int(where * reach), reach - 1)] ^= flip
    (copy / name).write_bytes(data[: int(len(data) * share)])
    files = assert_right_or_named(lambda: safetensors_files.SafetensorsFiles(copy), copy)
    if files is not None:
        found = assert_right_or_named(lambda: load(copy), copy)
        if found is not None:
            assert jax.tree.structure(found[1]) == jax.tree.structure(expected)


@fuzz(st.sampled_from(sorted(published.CONFIGS["gemma3"] | published.CONFIGS["llama3.1"])), JSON, examples=60)
def test_fuzz_values_of_a_config(tmp_path, key, value):
    for case in ("gemma3", "llama3.1", "qwen2_windows"):
        folder = tmp_path / case
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(published.CONFIGS[case] | {key: value}))
        assert_right_or_named(lambda at=folder: convert.read_config(at), folder)


@fuzz(
    st.sampled_from(["r", "lora_alpha", "target_modules", "bias", "init_lora_weights", "peft_type", "rank_pattern"]),
    JSON,
    examples=40,
)
def test_fuzz_values_of_an_adapter(adapter, tmp_path, key, value):
    shutil.rmtree(tmp_path / "peft", ignore_errors=True)
    folder = changed_adapter(adapter, tmp_path, {key: value})
    assert_right_or_named(lambda: peft.load(folder, adapter[0], one_device()), folder)


@fuzz(JSON, st.one_of(st.none(), st.text(max_size=12)), examples=40)
def test_fuzz_an_index(whole, tmp_path, places, name):
    copy = tmp_path / "copy"
    if not copy.exists():
        shutil.copytree(whole[0], copy)
    content = json.loads((whole[0] / INDEX).read_text())
    if name is None:
        content["weight_map"] = places
    else:
        content["weight_map"][name] = places
    (copy / INDEX).write_text(json.dumps(content))
    assert_right_or_named(lambda: safetensors_files.SafetensorsFiles(copy), copy)
