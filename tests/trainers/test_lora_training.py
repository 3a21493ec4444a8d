"""SFT, DAPO, evaluation and export of adapters over a published base, from the settings of a page."""

import dataclasses

import jax
import numpy as np
import pytest

from masksearch_jax.model import lora, transformer
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.model.published import export, load, peft
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime import metrics
from masksearch_jax.runtime.checkpoints import Checkpointer, MismatchError
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import sft
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.workflows import conversion as entry
from masksearch_jax.workflows import evaluation, training
from masksearch_jax.workflows.context import RunContext

MODEL = ModelConfig(
    vocab_size=400, layers=2, embed=32, heads=2, kv_heads=1, head_dim=16, ff=48, mlp="swiglu", rope_fraction=1.0,
    qkv_bias=True, smear_keys=False, scan_unroll=1,
)  # fmt: skip


@pytest.fixture
def context(cfg, workdir, tmp_path):
    """A job over a published base, with demonstrations."""
    model = dataclasses.replace(MODEL, vocab_size=RunContext(cfg, workdir).tokenizer.vocab_size)
    export.save_pretrained(
        tmp_path / "published", model, transformer.init_params(model, 7, mesh_lib.make_mesh(1, 1, 1))
    )
    cfg.pretrained = str(tmp_path / "published")
    cfg.lora.update({"rank": 2, "alpha": 4.0})
    cfg.sft.update({"steps": 4, "checkpoint_every": 2})
    cfg.dapo.update({"iterations": 2, "checkpoint_every": 1, "dynamic_sampling": False})
    made = RunContext(cfg, workdir)
    training.ensure_demonstrations(made)
    return made


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def stage(context, name, count, run):
    """The stage up to `count`, on a fresh job."""
    context.cfg[name].update({"steps" if name == "sft" else "iterations": count})
    return run(RunContext(context.cfg, context.workdir))


@pytest.mark.slow
def test_from_sft_over_dapo_to_evaluation_and_export(context, tmp_path):
    base = load.load_pretrained(context.cfg.pretrained, context.mesh)[1]
    whole = stage(context, "sft", 4, training.train_sft)
    trained, frozen = lora.split(whole)
    assert_equal(frozen, base)
    assert all(np.abs(x).max() > 0 for x in trained["adapters"].values())
    # Killed and started again: the same, from adapters and optimizer alone.
    (context.workdir / "sft").rename(context.workdir / "whole")
    stage(context, "sft", 2, training.train_sft)
    after_sft = stage(context, "sft", 4, training.train_sft)
    assert_equal(after_sft, whole)
    saved = Checkpointer(context.workdir / "sft" / "checkpoints", read_only=True)
    with pytest.raises(MismatchError, match="params/blocks/attention/k: only in this run"):
        saved.restore(4, {"params": transformer.abstract_params(context.policy)}, partial=True)
    assert saved.meta()["base"]["pretrained"] == context.cfg.pretrained
    # DAPO goes on with these adapters on the same base.
    whole = stage(context, "dapo", 2, lambda context: training.train_dapo(context, after_sft))
    assert_equal(lora.split(whole)[1], base)
    moved = [np.abs(np.asarray(whole["adapters"][n] - x)).max() for n, x in after_sft["adapters"].items()]
    assert max(moved) > 0
    row = metrics.read_rows(context.workdir / "dapo" / "metrics.jsonl")[0]
    assert row["sampler_max_diff"] < 1e-4  # merged weights sample, x W + (x A) B trains
    (context.workdir / "dapo").rename(context.workdir / "whole_dapo")
    stage(context, "dapo", 1, lambda context: training.train_dapo(context, after_sft))
    assert_equal(
        stage(context, "dapo", 2, lambda context: training.train_dapo(context, training.train_sft(context))), whole
    )
    # Whoever reads the stage gets base and adapters, and the evaluation samples with their sum.
    context = RunContext(context.cfg, context.workdir)
    assert_equal(context.parameters("dapo"), whole)
    context.cfg.evaluate.episodes.update({"ramp_1": 4, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    scores = evaluation.run(context, "dapo", context.engine("all", 1.0))
    merged = lora.merged(context.policy.config, whole)
    plain = RunContext(context.cfg.copy_and_resolve_references(), context.workdir)
    plain.cfg.lora.rank = 0
    assert evaluation.run(plain, "dapo", plain.engine("all", 1.0), merged) == scores
    # Export: the adapters by themselves, and added into the base.
    entry.to_published(context.workdir / "dapo", tmp_path / "peft")
    assert_equal(peft.load(tmp_path / "peft", context.policy), whole["adapters"])
    entry.to_published(context.workdir / "dapo", tmp_path / "merged", merge=True)
    assert_equal(load.load_pretrained(tmp_path / "merged", context.mesh)[1], merged)
    # A PEFT folder is where SFT starts.
    context.cfg.adapters = str(tmp_path / "peft")
    assert_equal(RunContext(context.cfg, context.workdir).initial(), whole)
    refuses_what_differs(context, tmp_path)


def refuses_what_differs(context, tmp_path):
    def refusal(says, **settings):
        cfg = context.cfg.copy_and_resolve_references()
        cfg.adapters = ""
        cfg.update(settings)
        with pytest.raises(ValueError, match=says):
            RunContext(cfg, context.workdir).parameters("sft")

    refusal(r"lora.alpha=4.0 .* lora.alpha=8.0 .* give the same --config.lora", lora={"alpha": 8.0})
    refusal("trained with lora.rank=2 .* has no adapters", lora={"rank": 0})
    other = dataclasses.replace(MODEL, vocab_size=context.policy.config.vocab_size)
    export.save_pretrained(tmp_path / "other", other, transformer.init_params(other, 8, context.mesh))
    asked = context.cfg.pretrained
    refusal(rf"stand on {asked} \(hash \w+\), and the base here is", pretrained=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="the base here is"):
        entry.to_published(context.workdir / "sft", tmp_path / "no", merge=True, base=str(tmp_path / "other"))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_adapters_train_on_a_quantised_base(context, kind, tmp_path):
    pytest.importorskip("qwix", reason="the extra qlora is not installed")
    context.cfg.lora.base_quantisation, context.cfg.model.remat = kind, "full"
    whole = stage(context, "sft", 2, training.train_sft)
    assert whole["blocks"]["mlp"]["up"].qvalue.dtype.itemsize == 1
    assert max(np.abs(x).max() for n, x in whole["adapters"].items() if n.endswith("_b")) > 0
    again = RunContext(context.cfg, context.workdir).parameters("sft")
    assert_equal(again, whole)
    after = stage(context, "dapo", 1, lambda context: training.train_dapo(context, again))
    assert metrics.read_rows(context.workdir / "dapo" / "metrics.jsonl")[0]["sampler_max_diff"] < 1e-4
    assert_equal(after["blocks"], whole["blocks"])
    entry.to_published(context.workdir / "sft", tmp_path / "merged", merge=True)
    assert_equal(load.load_pretrained(tmp_path / "merged", context.mesh)[1], lora.merged(context.policy.config, whole))


def test_the_optimizer_knows_the_adapters_alone():
    cfg = dataclasses.replace(MODEL, lora=LoraConfig(2))
    for kind in ("adamw", "muon"):
        policy = Policy(cfg, mesh_lib.make_mesh(2, 2, 2))
        tx = optimizer_lib.build_optimizer({"kind": kind}, policy.abstract_trainable)
        abstract = state_lib.abstract_state(policy, tx)
        real = state_lib.create_state(policy, tx, policy.init_params(0))
        jax.tree.map(
            lambda a, x: np.testing.assert_(a.shape == x.shape and a.sharding.is_equivalent_to(x.sharding, x.ndim)),
            abstract,
            real,
        )
        count = sum(x.size for x in jax.tree.leaves(real.params))
        # By hand: R (inputs + outputs) a map: q, k, v, o, gate, up, down of two layers.
        assert count == 2 * 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 48))
        moments = {"adamw": 2, "muon": 1}[kind]
        held = sum(x.size for x in jax.tree.leaves(real.opt_state) if x.ndim > 1)  # and Muon's three coefficients
        assert held == moments * count


@pytest.mark.slow
def test_a_mesh_changes_no_step_and_every_program_compiles_once():
    cfg = dataclasses.replace(MODEL, heads=4, kv_heads=2, lora=LoraConfig(2), vocab_size=64, remat="full")
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(3, 64, (8, 16), dtype=np.int32) for name in ("ids", "targets")}
    batch |= {"positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)), "segments": np.ones((8, 16), np.int32)}
    batch["loss_mask"] = rng.random((8, 16)) < 0.5
    found = []
    for mesh, micro in ((mesh_lib.make_mesh(1, 1, 1), 1), (mesh_lib.make_mesh(2, 2, 2), 2)):
        policy = Policy(cfg, mesh)
        tx = optimizer_lib.build_optimizer(
            {"kind": "adamw", "learning_rate": 1e-2, "eps": 1e-3}, policy.abstract_trainable
        )
        with jax.set_mesh(mesh):
            params = policy.init_params(0)
            base = policy.split(params)[1]
            state, step = state_lib.create_state(policy, tx, params), sft.make_step(policy, tx, micro)
            for _ in range(3):
                state, _ = step(state, jax.device_put(batch, mesh_lib.batch_sharding(mesh)), base)
        assert step._cache_size() == 1 and not any(x.is_deleted() for x in jax.tree.leaves(base))
        found.append(jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *found)
