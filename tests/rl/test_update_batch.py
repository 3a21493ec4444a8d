"""Alignment of targets, masks and log-probs; packing, splitting and padding change no sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from masksearch_jax.rl import loss
from masksearch_jax.rl import update_batch as rl_batch
from masksearch_jax.rollout.trajectory import StopReason, Trajectory

SHAPE = rl_batch.BatchShape(lengths=(32, 64), rows=4, micro=(1, 2, 4, 8))


def trajectory(rng, group=0, sample=0, length=None, version=3):
    """A random trajectory; ids include 0, the pad id, among what the policy wrote."""
    length = length or int(rng.integers(6, 31))
    prompt = int(rng.integers(1, 5))
    trainable = np.arange(length) >= prompt
    trainable[prompt + 1 : prompt + 3] = False  # an observation
    return Trajectory(
        task_id=f"t{group}", group=group, sample=sample, ids=rng.integers(0, 9, length).astype(np.int32),
        trainable=trainable, logprobs=np.where(trainable, -rng.random(length), 0).astype(np.float32),
        versions=np.where(trainable, version, -1).astype(np.int32), prompt_length=prompt, turns=(),
        stop=StopReason.ANSWER, answer="",
    )  # fmt: skip


def make(seed=0, groups=6, n=4):
    rng = np.random.default_rng(seed)
    return [(trajectory(rng, g, s), float(rng.normal())) for g in range(groups) for s in range(n)]


def sequences(update):
    """The sequences of an update batch as plain tuples (ids, targets under the mask, log-probs, advantages)."""
    found = []
    given = {name: value for name, value in vars(update).items() if value is not None}
    flat = {name: value.reshape(-1, update.ids.shape[-1]) for name, value in given.items()}
    for row in range(flat["ids"].shape[0]):
        for segment in range(1, flat["segments"][row].max(initial=0) + 1):
            here = flat["segments"][row] == segment
            kept = here & flat["mask"][row]
            np.testing.assert_array_equal(flat["positions"][row][here], np.arange(here.sum()))
            found.append((
                tuple(flat["ids"][row][here]), tuple(flat["targets"][row][kept]),
                tuple(flat["sampler_logp"][row][kept]), tuple(flat["advantages"][row][kept]),
                tuple(flat["versions"][row][kept]),
            ))  # fmt: skip
    return sorted(found)


def expected(items):
    """The same, taken from the trajectories: what a policy sampled is what it is trained on."""
    return sorted(
        (tuple(t.ids), tuple(t.ids[t.trainable]), tuple(t.logprobs[t.trainable]),
         tuple(np.full(t.generated, a, np.float32)), tuple(t.versions[t.trainable]))
        for t, a in items
    )  # fmt: skip


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mini_batches", [1, 3])
def test_every_sampled_token_is_a_target_once_with_its_own_values(packed, mini_batches):
    items = make()
    shape = rl_batch.BatchShape(SHAPE.lengths, SHAPE.rows, SHAPE.micro, packed)
    updates = rl_batch.build_batches(items, mini_batches, shape)
    assert len(updates) == mini_batches
    assert len({update.ids.shape for update in updates}) == 1
    size = len(items) // mini_batches
    for index, update in enumerate(updates):
        part = items[index * size : (index + 1) * size]
        assert sequences(update) == expected(part)
        assert update.tokens == sum(t.generated for t, _ in part)
        assert not update.mask[update.segments == 0].any()
        assert (update.versions[~update.mask] == -1).all()
        np.testing.assert_array_equal(update.old_logp, update.sampler_logp)


def test_by_hand():
    one = Trajectory("t", 0, 0, np.array([5, 6, 7, 8, 9]), np.array([False, False, True, False, True]),
                     np.array([0, 0, -0.5, 0, -0.25], np.float32), np.array([-1, -1, 2, -1, 2]), 2, (),
                     StopReason.ANSWER, "")  # fmt: skip
    update = rl_batch.build_batches([(one, 1.5)], 1, rl_batch.BatchShape((6,), 1))[0]
    assert update.ids.tolist() == [[[5, 6, 7, 8, 9, 0]]]
    assert update.targets.tolist() == [[[6, 7, 8, 9, 0, 0]]]
    assert update.mask.tolist() == [[[False, True, False, True, False, False]]]
    assert update.sampler_logp.tolist() == [[[0, -0.5, 0, -0.25, 0, 0]]]
    assert update.advantages.tolist() == [[[0, 1.5, 0, 1.5, 0, 0]]]
    assert update.versions.tolist() == [[[-1, 2, -1, 2, -1, -1]]]
    assert update.segments.tolist() == [[[1, 1, 1, 1, 1, 0]]]


def test_permuting_a_mini_batch_permutes_its_sequences():
    items = make()
    order = np.random.default_rng(3).permutation(len(items))
    one, other = (rl_batch.build_batches(x, 1, SHAPE)[0] for x in (items, [items[i] for i in order]))
    assert sequences(one) == sequences(other)
    again = rl_batch.build_batches(items, 1, SHAPE)[0]
    jax.tree.map(np.testing.assert_array_equal, one, again)


@jax.jit
def toy_step(table, b):
    """Loss sum, count, metrics and gradient of a policy whose log-prob depends on id, target and position."""

    def one(table):
        logp = jax.nn.log_softmax(table[b.ids] * (1 + 0.1 * b.positions[..., None]))
        new = jnp.take_along_axis(logp, b.targets[..., None], -1)[..., 0]
        total, count, metrics = loss.policy_loss(new, b.old_logp, b.advantages, b.mask)
        return total, (count, metrics)

    return jax.value_and_grad(one, has_aux=True)(table)


def totals(updates):
    table = jnp.asarray(np.random.default_rng(5).normal(size=(9, 9)), jnp.float32)
    parts = [toy_step(table, jax.tree.map(lambda x, m=m: x[m], u)) for u in updates for m in range(u.ids.shape[0])]
    return jax.tree.map(lambda *x: sum(x), *parts)


@pytest.mark.parametrize(
    "shape",
    [
        rl_batch.BatchShape((32,), 24, (1,), packed=False),
        rl_batch.BatchShape((64,), 3, (8,), packed=False),
        rl_batch.BatchShape((50,), 1, (16,)),
    ],
)
def test_split_packing_and_padding_change_no_sum(shape):
    items = make()
    reference, found = (totals(rl_batch.build_batches(items, 1, one)) for one in (SHAPE, shape))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, reference)


def test_the_cheapest_shape_is_taken():
    rng = np.random.default_rng(0)
    items = [(trajectory(rng, length=n), 1.0) for n in (30, 30, 10, 10, 10)]
    # 90 tokens: two rows of 64 cost 128, three of 32 cost 96.
    assert rl_batch.build_batches(items, 1, rl_batch.BatchShape((32, 64), 1, (1, 2, 3, 4)))[0].ids.shape == (3, 1, 32)
    assert rl_batch.build_batches(items, 1, rl_batch.BatchShape((32, 64), 1, (1, 2)))[0].ids.shape == (2, 1, 64)


def test_failed_rewards_are_dropped():
    items = make(groups=2)
    holed = [(t, np.nan if i in (1, 6) else a) for i, (t, a) in enumerate(items)]
    kept = [x for i, x in enumerate(items) if i not in (1, 6)]
    assert sequences(rl_batch.build_batches(holed, 1, SHAPE)[0]) == expected(kept)
    assert len(rl_batch.build_batches(items[:2], 4, SHAPE)) == 2


def test_old_logp_comes_from_the_trainer_where_it_still_holds_the_parameters():
    rng = np.random.default_rng(1)
    items = [(trajectory(rng, version=2), 1.0), (trajectory(rng, version=3), 1.0)]
    update = rl_batch.build_batches(items, 1, SHAPE)[0]
    recomputed = np.full(update.ids.shape, -7.0)
    filled = rl_batch.with_old_logp(update, recomputed, version=3)
    carried = update.mask & (update.versions == 2)
    assert carried.any()
    np.testing.assert_array_equal(filled.old_logp[carried], update.sampler_logp[carried])
    assert (filled.old_logp[update.mask & ~carried] == -7).all() and not filled.old_logp[~update.mask].any()
    weights = loss.truncated_importance_weights(filled.old_logp, filled.sampler_logp, filled.mask)
    assert (np.asarray(weights)[carried] == 1).all()


def test_it_is_a_pytree():
    update = rl_batch.build_batches(make(), 1, SHAPE)[0]
    doubled = jax.jit(lambda u: jax.tree.map(lambda x: x, u))(update)
    assert isinstance(doubled, rl_batch.UpdateBatch) and len(jax.tree.leaves(doubled)) == 9


def test_bad_input_names_the_trajectory():
    import dataclasses

    good = trajectory(np.random.default_rng(0), group=4, sample=2, length=10)
    bad = [
        (dataclasses.replace(good, versions=good.versions[:-1]), "group 4, sample 2.*versions has 9 values for 10 ids"),
        (dataclasses.replace(good, trainable=np.ones(10, bool)), "first token"),
        (dataclasses.replace(good, logprobs=np.full(10, np.nan)), "logprobs"),
    ]
    for wrong, message in bad:
        with pytest.raises(ValueError, match=message):
            rl_batch.build_batches([(wrong, 1.0)], 1, SHAPE)
    with pytest.raises(ValueError, match="the longest of 10 tokens, fit none"):
        rl_batch.build_batches([(good, 1.0)], 1, rl_batch.BatchShape((8,), 1))
    with pytest.raises(ValueError, match="0 trajectories"):
        rl_batch.build_batches([(good, np.nan)], 1, SHAPE)
    with pytest.raises(ValueError, match="lengths"):
        rl_batch.BatchShape((), 1)
