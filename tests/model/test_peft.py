"""Adapters as PEFT folders: by their numbers in the published orientation, and live where torch and peft are."""

import dataclasses
import json

import jax
import numpy as np
import published
import pytest
import safetensors.numpy

from masksearch_jax.model import lora, transformer
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.model.published import export, load, peft
from masksearch_jax.model.published.safetensors_files import read_safetensors
from masksearch_jax.runtime import mesh as mesh_lib

CASES = ("qwen2", "gemma3", "llama3")


def adapted(folder, case, mesh=None, **settings):
    """(published folder, ModelConfig, parameters whose B is not zero)."""
    mesh = mesh or mesh_lib.make_mesh(1, 1, 1)
    hf = published.write(folder / "hf", case)
    cfg, base = load.load_pretrained(hf, mesh)
    cfg = dataclasses.replace(cfg, lora=LoraConfig(3, 6.0, **settings))
    params, rng = transformer.adapt(cfg, base, 0, mesh), np.random.default_rng(0)

    def moved(x):
        return jax.device_put(np.asarray(x) + rng.normal(scale=0.1, size=x.shape).astype(np.float32), x.sharding)

    return hf, cfg, params | {"adapters": jax.tree.map(moved, params["adapters"])}


def logits(cfg, params, case):
    ids = published.ids(case)
    positions = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    hidden = jax.jit(transformer.forward, static_argnums=0)(cfg, params, ids, positions, np.ones_like(ids))
    return np.asarray(transformer.unembed(cfg, params, hidden))


@pytest.mark.parametrize("case", CASES)
def test_the_file_holds_the_factors_of_what_merging_adds(case, tmp_path):
    """W + (lora_alpha / r) lora_B lora_A in the published orientation is the merged export, tensor by tensor."""
    _, cfg, params = adapted(tmp_path, case, mesh_lib.make_mesh(2, 2, 1))
    peft.save(tmp_path / "peft", cfg, params["adapters"], "a/base")
    export.save_pretrained(tmp_path / "merged", cfg.merged, lora.merged(cfg, params))
    factors = read_safetensors(tmp_path / "peft" / "adapter_model.safetensors")
    merged = read_safetensors(tmp_path / "merged" / "model.safetensors")
    base, settings = published.weights(case), json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (3, 6.0, "a/base")
    scale, seen = settings["lora_alpha"] / settings["r"], 0
    for name, weight in merged.items():
        at = f"base_model.model.{name.removesuffix('.weight')}"
        expected = base[name].astype(np.float64)
        if f"{at}.lora_A.weight" in factors:
            a, b = (factors[f"{at}.lora_{which}.weight"].astype(np.float64) for which in "AB")
            assert a.shape == (3, weight.shape[1]) and b.shape == (weight.shape[0], 3)
            expected, seen = expected + scale * b @ a, seen + 1
            assert name.split(".")[-2] in settings["target_modules"]
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    assert 2 * seen == len(factors) == 2 * 7 * cfg.layers
    back = peft.load(tmp_path / "peft", cfg, mesh_lib.make_mesh(1, 2, 1))
    jax.tree.map(np.testing.assert_array_equal, back, params["adapters"])


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_the_same_logits_both_ways(case, tmp_path):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    hf, cfg, params = adapted(tmp_path, case)
    peft.save(tmp_path / "ours", cfg, params["adapters"], str(hf))

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager")

    rows = torch.tensor(published.ids(case), dtype=torch.long)
    with torch.no_grad():
        plain = base()(rows).logits.numpy()
        found = theirs.PeftModel.from_pretrained(base(), tmp_path / "ours").eval()(rows).logits.numpy()
    assert np.abs(found - plain).max() > 0.1
    np.testing.assert_allclose(logits(cfg, params, case), found, atol=1e-4)
    # One that PEFT made: fewer targets, B drawn at random.
    chosen = theirs.LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = theirs.get_peft_model(base(), chosen).eval()
    model.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        found = model(rows).logits.numpy()
    cfg = dataclasses.replace(cfg, lora=LoraConfig(3, 6.0, targets=("q", "down")))
    loaded = peft.load(tmp_path / "theirs", cfg, mesh_lib.make_mesh(1, 1, 1))
    np.testing.assert_allclose(logits(cfg, params | {"adapters": loaded}, case), found, atol=1e-4)


def test_what_does_not_fit_is_named(tmp_path):
    _, cfg, params = adapted(tmp_path, "qwen2", targets=("q",))
    folder, mesh = tmp_path / "peft", mesh_lib.make_mesh(1, 1, 1)
    peft.save(folder, cfg, params["adapters"])
    settings = json.loads((folder / "adapter_config.json").read_text())

    def refusal(says, cfg=cfg, error=ValueError, **changed):
        (folder / "adapter_config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(error, match=says):
            peft.load(folder, cfg, mesh)

    refusal("use_rslora = True", use_rslora=True)
    refusal("peft_type = 'LOHA'", peft_type="LOHA")
    refusal("r = 3, lora_alpha = 12, and this run has lora.rank = 3, alpha = 6.0", lora_alpha=12)
    refusal("set --config.lora.rank", cfg=cfg.merged)
    more = dataclasses.replace(cfg, lora=LoraConfig(3, 6.0, targets=("q", "o")))
    refusal(r"missing: base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight \(3, 56\)", cfg=more)
    factors = read_safetensors(folder / "adapter_model.safetensors")
    safetensors.numpy.save_file(factors | {"base_model.model.lm_head.lora_A.weight": np.zeros((3, 56), np.float32)},
                                folder / "adapter_model.safetensors")  # fmt: skip
    refusal("surplus: base_model.model.lm_head.lora_A.weight")
    with pytest.raises(FileNotFoundError, match="adapter_config.json does not exist"):
        peft.load(tmp_path, cfg, mesh)
    with pytest.raises(FileExistsError, match="is not empty"):
        peft.save(folder, cfg, params["adapters"])
    toy = ModelConfig(vocab_size=8, layers=1, embed=8, heads=1, kv_heads=1, head_dim=8, ff=8, lora=LoraConfig(2))
    with pytest.raises(ValueError, match="no family"):
        peft.save(tmp_path / "toy", toy, transformer.init_params(toy, 0, mesh)["adapters"])
    assert not (tmp_path / "toy").exists()
