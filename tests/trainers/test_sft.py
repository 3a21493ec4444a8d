import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers import sft
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.workflows import synthesis_stage
from masksearch_jax.workflows.context import RunContext


def train(cfg, workdir, evaluate=None):
    context = RunContext(cfg, workdir)
    with jax.set_mesh(context.mesh):
        return sft.run(cfg, workdir, context.policy, evaluate=evaluate)


@pytest.fixture
def ready(cfg, workdir):
    """The workdir with demonstrations."""
    synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))
    return workdir


def assert_equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def test_resumed_equals_uninterrupted_bit_for_bit(cfg, ready):
    def score(params, step):
        return {"first": float(np.asarray(jax.tree.leaves(params)[0]).ravel()[0])}

    def told_to_stop(params, step):
        if step == 4:  # within evaluation, a step after a row and two before the next one
            raise distributed.PreemptedError
        return score(params, step)

    cfg.sft.update({"log_every": 3, "eval_every": 2, "checkpoint_every": 100})
    whole = train(cfg, ready, score)
    (ready / "sft").rename(ready / "whole")
    # As if killed before the first checkpoint: only rows are left, the last one cut.
    log = ready / "sft" / "metrics.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 3, "loss": 9.0}\n{"step": 4, "lo')
    with pytest.raises(distributed.PreemptedError, match="saved step 4"):
        train(cfg, ready, told_to_stop)
    resumed = train(cfg, ready, score)
    assert_equal(whole, resumed)
    timing = ("time", "tokens_per_s", "flops_per_s", "step/", "seconds/", "compile/", "memory/")
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(timing)} for row in metrics.read_rows(log)]
        for log in (ready / "whole" / "metrics.jsonl", ready / "sft" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [2, 3, 4, 6]
    starts = [json.loads(line)["step"] for line in (ready / "sft" / "history.jsonl").read_text().splitlines()]
    assert starts == [0, 4]


@pytest.mark.slow
def test_a_stage_folder_that_is_removed_under_the_run_ends_it(cfg, ready):
    def remove(params, step):
        shutil.rmtree(ready / "sft")
        return {}

    cfg.sft.eval_every = 2
    with pytest.raises(FileNotFoundError, match=r"w/sft.* was removed .*start the same line again"):
        train(cfg, ready, remove)


def test_a_changed_pipeline_is_refused_on_resume(cfg, ready):
    cfg.sft.steps = 3
    train(cfg, ready)
    cfg.sft.steps, cfg.sft.rows = 6, 2
    with pytest.raises(ValueError, match="sft.rows is 4 there and 2 here"):
        train(cfg, ready)
    # Other data under the same settings.
    cfg.sft.rows = 4
    demonstrations = ready / "demonstrations" / "ramp_1.array_record"
    shutil.copy(ready / "demonstrations" / "ramp_2.array_record", demonstrations)
    with pytest.raises(ValueError, match="the data pipeline is not the one .*"):
        train(cfg, ready)


def _batch(model_cfg, rows=4, length=24, seed=0):
    rng = np.random.default_rng(seed)
    segments = np.repeat(np.array([[1] * 10 + [2] * 9 + [0] * 5]), rows, 0).astype(np.int32)
    positions = np.tile(np.r_[np.arange(10), np.arange(9), np.zeros(5)], (rows, 1)).astype(np.int32)
    return {
        "ids": rng.integers(3, model_cfg.vocab_size, (rows, length)).astype(np.int32),
        "targets": rng.integers(3, model_cfg.vocab_size, (rows, length)).astype(np.int32),
        "positions": positions,
        "segments": segments,
        "loss_mask": (rng.random((rows, length)) < 0.4) & (segments > 0),
    }


def _step(policy, micro_batches, batch):
    tx = optimizer_lib.build_optimizer({"kind": "adamw", "learning_rate": 1e-2, "eps": 1e-3}, policy.abstract_trainable)
    with jax.set_mesh(policy.mesh):
        state = state_lib.create_state(policy, tx, policy.init_params(0))
        step = sft.make_step(policy, tx, micro_batches)
        for _ in range(3):
            state, sums = step(state, jax.device_put(batch, mesh_lib.batch_sharding(policy.mesh)), {})
    assert step._cache_size() == 1  # one compilation, whatever the layout of the first state was
    return jax.device_get(state.params), {k: float(a) / max(float(b), 1) for k, (a, b) in sums.items()}


@pytest.mark.slow
def test_meshes_and_micro_batches_change_nothing(cfg, workdir):
    model_cfg = RunContext(cfg, workdir).policy.config
    batch = _batch(model_cfg)
    params, sums = _step(Policy(model_cfg, mesh_lib.make_mesh(1, 1, 1)), 1, batch)
    assert sums["skipped"] == 0 and sums["loss"] > 0
    for sizes, micro in (((2, 2, 2), 1), ((1, 2, 1), 2)):
        other, other_sums = _step(Policy(model_cfg, mesh_lib.make_mesh(*sizes)), micro, batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, other)
        assert np.isclose(sums["loss"], other_sums["loss"], rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_compute_trains_float32_masters(cfg, workdir):
    """As a recipe says it: bfloat16 activations, layers recomputed, two micro-batches; the page alone says so."""
    mesh, loss = mesh_lib.make_mesh(1, 1, 1), {}
    for dtype in ("float32", "bfloat16"):
        cfg.model.update({"dtype": dtype, "param_dtype": "float32", "remat": "full"})
        model_cfg = RunContext(cfg, workdir).policy.config
        params, sums = _step(Policy(model_cfg, mesh), 2, _batch(model_cfg))
        loss[dtype] = sums["loss"]
        assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    # Masters hold what bfloat16 cannot: an update smaller than its last bit is not lost.
    rounded = [np.mean(x == x.astype(jnp.bfloat16).astype(np.float32)) for x in jax.tree.leaves(params["blocks"])]
    assert max(rounded) < 0.2
    assert loss["float32"] != loss["bfloat16"] and np.isclose(*loss.values(), rtol=0.02)


def test_only_the_policys_own_tokens_teach(cfg, workdir):
    """What the targets are outside the loss mask reaches neither loss nor gradient."""
    policy = RunContext(cfg, workdir).policy
    params = policy.init_params(0)
    batch = _batch(policy.config)
    other = dict(batch, targets=np.where(batch["loss_mask"], batch["targets"], 5).astype(np.int32))
    grads = [
        jax.grad(lambda p, b: sft.loss_fn(policy, p, b)[0])(params, jax.tree.map(jnp.asarray, b))
        for b in (batch, other)
    ]
    assert_equal(*grads)


@pytest.mark.slow
def test_packed_equals_one_sequence_a_row(cfg, workdir):
    """Two sequences in a row give the loss and gradient of the same two in rows of their own."""
    policy = RunContext(cfg, workdir).policy
    params = policy.init_params(0)
    packed = _batch(policy.config, rows=1)
    apart = {name: np.zeros((2, 10), value.dtype) for name, value in packed.items()}
    for row, part in enumerate((slice(0, 10), slice(10, 19))):
        for name, value in packed.items():
            apart[name][row, : part.stop - part.start] = value[0, part]
    apart["segments"] = (apart["segments"] > 0).astype(np.int32)

    def loss(p, batch):
        return sft.loss_fn(policy, p, jax.tree.map(jnp.asarray, batch))[0]

    (a, ga), (b, gb) = (jax.value_and_grad(loss)(params, batch) for batch in (packed, apart))
    assert np.isclose(float(a), float(b), rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), ga, gb)
