"""Published families against transformers: logits, greedy tokens through the cache, folders in both directions.

Everything runs against stored outputs of transformers; where torch and transformers are installed, also against them.
"""

import dataclasses
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.model.published import export, families, load
from masksearch_jax.runtime import mesh as mesh_lib

LIVE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
live = pytest.mark.skipif(not LIVE, reason="torch and transformers are not installed: pip install torch transformers")


def one_device():
    return mesh_lib.make_mesh(1, 1, 1)


@functools.partial(jax.jit, static_argnums=0)
def whole_logits(cfg, params, ids):
    index = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    return transformer.unembed(cfg, params, transformer.forward(cfg, params, ids, index, jnp.ones_like(index)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def greedy(cfg, params, ids, counts, steps, cache):
    """Prefill of ragged rows, then one token after another: what a rollout does."""
    hidden, cache = transformer.extend(cfg, params, cache, ids, counts)
    last = jnp.take_along_axis(hidden, (counts - 1)[:, None, None], axis=1)[:, 0]

    def step(carry, _):
        last, cache = carry
        token = transformer.unembed(cfg, params, last).argmax(-1).astype(jnp.int32)
        hidden, cache = transformer.extend(cfg, params, cache, token[:, None], jnp.ones_like(counts))
        return (hidden[:, 0], cache), token

    return jax.lax.scan(step, (last, cache), length=steps)[1].T


def generate(cfg, params, ids, mesh):
    counts = np.array(published.PROMPTS, np.int32)
    prompts = np.where(np.arange(max(counts)) < counts[:, None], ids[:, : max(counts)], 3)
    cache = kv.init_cache(cfg, 2, max(counts) + published.NEW, mesh)
    return greedy(cfg, params, prompts, counts, published.NEW, cache)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Per case a folder of three shards."""
    parent = tmp_path_factory.mktemp("published")
    return {case: published.write(parent / case, case, shards=3) for case in published.CONFIGS}


@pytest.mark.parametrize("case", published.CONFIGS)
def test_logits_and_greedy_tokens_are_those_of_transformers(case, folders):
    cfg, params = load.load_pretrained(folders[case], one_device())
    ids = published.ids(case)
    expected, tokens = published.stored(case)
    assert np.abs(whole_logits(cfg, params, ids) - expected).max() <= 1e-4
    np.testing.assert_array_equal(generate(cfg, params, ids, one_device()), tokens)


@live
@pytest.mark.parametrize("case", published.CONFIGS)
def test_live_transformers_both_ways(case, folders, tmp_path):
    """What it saves we read, what we write it loads: same logits, and the stored ones are still what it computes."""
    model, logits, tokens = published.reference(folders[case], case)
    expected, stored_tokens = published.stored(case)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    np.testing.assert_array_equal(tokens, stored_tokens)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    cfg, params = load.load_pretrained(tmp_path / "theirs", one_device())
    assert np.abs(whole_logits(cfg, params, published.ids(case)) - logits).max() <= 1e-4
    np.testing.assert_array_equal(generate(cfg, params, published.ids(case), one_device()), tokens)
    for name, like in (("alone", None), ("like", tmp_path / "theirs")):
        export.save_pretrained(tmp_path / name, cfg, params, like=like, shard_bytes=30_000)
        np.testing.assert_allclose(published.reference(tmp_path / name, case)[1], logits, atol=1e-6)


@live
def test_live_gemma_with_vision(tmp_path):
    """Of a Gemma 3 with an image tower the language model is read, whatever transformers calls its tensors."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**published.CONFIGS["gemma3"], "vocab_size": 80}
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16)
    config = Gemma3Config(text_config=text, vision_config={**vision, "patch_size": 8}, image_token_index=79)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    cfg, params = load.load_pretrained(tmp_path / "theirs", one_device())
    ids = published.ids("gemma3")
    with torch.no_grad():
        expected = model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    assert np.abs(whole_logits(cfg, params, ids) - expected).max() <= 1e-4
    export.save_pretrained(tmp_path / "ours", cfg, params, like=tmp_path / "theirs")
    back, logits, _ = published.reference(tmp_path / "ours", "gemma3")
    assert type(back).__name__ == "Gemma3ForCausalLM"
    np.testing.assert_allclose(logits, expected, atol=1e-5)


# Each fact about a family changes the logits of the case that has it: none of the comparisons above is blind to it.
@pytest.mark.parametrize(
    ("case", "without"),
    [
        ("qwen2_windows", {"window": 6}),
        ("llama3.1", {"rope_scaling": "none"}),
        ("llama3.1", {"rope_high_freq": 2.0}),
        ("gemma2", {"attention_softcap": 0.0}),
        ("gemma2", {"logit_softcap": 0.0}),
        ("gemma3", {"local_layers": (0, 1, 2)}),
        ("gemma3", {"local_rope_base": 0.0}),
        ("gemma3", {"rope_factor": 4.0}),
        ("gemma3", {"query_scalar": 16.0}),
        ("gemma3", {"scale_embeddings": False}),
        ("gemma3", {"mlp": "swiglu"}),
    ],
)
def test_every_trait_shows(case, without, folders):
    cfg, params = load.load_pretrained(folders[case], one_device())
    got = whole_logits(dataclasses.replace(cfg, **without), params, published.ids(case))
    assert np.abs(got - published.stored(case)[0]).max() > 5e-3


def test_sharded_equals_unsharded(folders):
    """Windows, two rope bases and sandwich norms under a mesh; loaded into the decode layout."""
    mesh = mesh_lib.make_mesh(2, 2, 2)
    cfg, params = load.load_pretrained(folders["gemma3"], mesh, mesh_lib.DECODE)
    expected, _ = published.stored("gemma3")
    rows = mesh_lib.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        got = whole_logits(cfg, params, jax.device_put(np.tile(published.ids("gemma3"), (2, 1)), rows))
    assert np.abs(got - np.tile(expected, (2, 1, 1))).max() <= 1e-4


def test_packed_rows_see_windows_of_their_own_segment(folders):
    cfg, params = load.load_pretrained(folders["gemma3"], one_device())
    expected, _ = published.stored("gemma3")
    first, second = published.ids("gemma3")
    ids = np.concatenate([first[:14], second[:10]])[None]
    positions = np.concatenate([np.arange(14), np.arange(10)])[None]
    segments = np.repeat([1, 2], [14, 10])[None]
    for remat in ("none", "full"):
        run = jax.jit(transformer.forward, static_argnums=0)
        hidden = run(dataclasses.replace(cfg, remat=remat), params, ids, positions, segments)
        got = transformer.unembed(cfg, params, hidden)[0]
        np.testing.assert_allclose(got, np.concatenate([expected[0, :14], expected[1, :10]]), atol=1e-4)


# Two key-value heads on two, four and eight tensor shards: divided, then whole on every shard.
@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_two_key_value_heads_on_more_tensor_shards(tensor, tmp_path):
    config = {**published.CONFIGS["qwen3"], "num_attention_heads": 8, "head_dim": 4}
    cfg = families.from_hf(config)
    assert tensor in transformer.tensor_sizes(cfg)
    params = jax.tree.map(np.asarray, transformer.init_params(cfg, 0, one_device()))
    ids = np.tile(published.ids("qwen3"), (4, 1))
    mesh = mesh_lib.make_mesh(1, 8 // tensor, tensor)
    layout = transformer.param_shardings(cfg, mesh, mesh_lib.DECODE)
    assert layout["blocks"]["attention"]["k"].is_fully_replicated == (tensor > 2)
    assert not layout["blocks"]["attention"]["q"].is_fully_replicated
    placed = jax.device_put(params, layout)
    counts = np.full(8, 9, np.int32)
    extend = jax.jit(transformer.extend, static_argnums=0)
    expected, got = (
        extend(cfg, p, kv.init_cache(cfg, 8, 12, m), ids[:, :9], counts)[0]
        for p, m in ((params, one_device()), (placed, mesh))
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_tensor_axis_that_does_not_divide_says_which_do():
    cfg = families.named("qwen2.5-7b")
    assert transformer.tensor_sizes(cfg) == (1, 2, 4)
    with pytest.raises(ValueError, match=r"axis 'heads' has size 28, which 8 shards.*mesh.tensor in \(1, 2, 4\)"):
        transformer.abstract_params(cfg, mesh_lib.make_mesh(1, 1, 8))
    assert transformer.tensor_sizes(families.named("qwen2.5-0.5b")) == (1, 2)  # 14 heads; 7 does not divide 151936
    three = dataclasses.replace(families.named("llama3.2-3b"), kv_heads=3)
    assert transformer.tensor_sizes(three) == (1,)  # 2 neither divides 3 nor is divided by it; 3 does not divide ff


# Parameters as the model cards and transformers' num_parameters() give them: tied weights counted once, no vision.
COUNTS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "llama3-8b": 8_030_261_248,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b-text": 3_880_263_168,
}


@pytest.mark.parametrize("name", families.NAMES)
def test_named_sizes_have_the_published_number_of_parameters(name):
    shapes = transformer.abstract_params(families.named(name), one_device())
    assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[name]


def test_a_named_size_is_the_published_config():
    # As published with google/gemma-3-4b-it, which leaves the rest to the defaults of transformers.
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    assert families.from_hf({"model_type": "gemma3", "text_config": text}) == families.named("gemma3-4b-text")
    # As published with Qwen/Qwen2.5-7B: a window that is written but not used.
    qwen = {"hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 131072}
    qwen |= {"max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28}
    qwen |= {"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 131072}
    qwen |= {"tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 152064}
    assert families.from_hf(qwen) == families.named("qwen2.5-7b")


@pytest.mark.parametrize("name", families.NAMES)
def test_config_json_and_back(name):
    cfg = families.named(name, dtype="bfloat16")
    config = json.loads(json.dumps(families.to_hf(cfg, "bfloat16")))
    assert families.from_hf(config, dtype="bfloat16") == cfg
    assert families.to_hf(cfg, "bfloat16", like={**config, "eos_token_id": 7})["eos_token_id"] == 7


@live
@pytest.mark.parametrize("name", families.NAMES)
def test_live_transformers_builds_the_same_shapes_from_our_config(name, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    cfg = families.named(name)
    (tmp_path / "config.json").write_text(json.dumps(families.to_hf(cfg, "bfloat16")))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    ours = {tensor.name: tensor.file_shape for tensor in load.tensors(cfg)}
    theirs = {n: tuple(x.shape) for n, x in model.state_dict().items()}
    if cfg.tie_embeddings:
        theirs.pop("lm_head.weight")
    assert ours == theirs


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mixtral"}, "model_type = 'mixtral' is none of qwen2"),
        ({"attention_bias": True}, "attention_bias is set"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ],
)
def test_what_is_not_computed_is_refused(change, says):
    with pytest.raises(ValueError, match="some.json: .*" + says):
        families.from_hf({**published.CONFIGS["llama3"], **change}, "some.json")


def test_overrides_choose_how_to_compute_and_not_which_model():
    assert families.from_hf(published.CONFIGS["qwen2"], dtype="bfloat16", remat="full").dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"fixes model.layers; only dtype"):
        families.from_hf(published.CONFIGS["qwen2"], layers=1)
    with pytest.raises(ValueError, match="model 'qwen9' is none of qwen2.5-0.5b"):
        families.named("qwen9")


def test_a_model_of_no_family_is_refused():
    tiny = dataclasses.replace(families.named("qwen3-0.6b"), smear_keys=True)
    with pytest.raises(ValueError, match="smear_keys = False there, True here"):
        families.to_hf(tiny, "float32")
    with pytest.raises(ValueError, match="of no family"):
        families.to_hf(dataclasses.replace(tiny, mlp="relu2"), "float32")
    with pytest.raises(ValueError, match="another model: layers = 2 there, 28 here"):
        like = families.to_hf(families.named("qwen3-0.6b", layers=2), "float32")
        families.to_hf(families.named("qwen3-0.6b"), "float32", like=like)


def test_gemma_scales_embeddings_in_the_compute_dtype():
    """sqrt(48) is no bfloat16, and transformers multiplies by the rounded one."""
    cfg = families.from_hf(published.CONFIGS["gemma3"], dtype="bfloat16")
    params = transformer.init_params(cfg, 0, one_device())
    ids = np.zeros((1, 1), np.int32)
    scaled = transformer.module(cfg, params).embed(ids, positions=ids)
    expected = params["embedding"][0].astype(jnp.bfloat16) * jnp.bfloat16(48**0.5)
    assert scaled.dtype == jnp.bfloat16 and float(jnp.bfloat16(48**0.5)) != np.float32(48**0.5)
    np.testing.assert_array_equal(scaled[0, 0], expected)
