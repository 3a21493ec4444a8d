"""Updates whose samples share prefixes equal updates of separate samples: log-probs, loss, metrics and gradients."""

import dataclasses

import jax
import numpy as np
import pytest

from masksearch_jax.configs import dapo as page
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.model.policy import Policy
from masksearch_jax.rl import loss, rewards, update_batch
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime import metrics
from masksearch_jax.trainers import dapo_programs, sample_histograms, trajectory_sample, updates
from masksearch_jax.trainers.rollout_batch import Group
from tests.rl.test_prefix_trees import groups

PLAIN = ModelConfig(vocab_size=8, layers=2, embed=16, heads=2, kv_heads=1, head_dim=8, ff=32, smear_keys=False)


def settings(**override):
    found = page.dapo()
    found.update({"row_lengths": (160,), "rows": 2, "micro_batches": (1, 2, 3, 4, 16), "tis_cap": 2.0, **override})
    return found


def measured(cfg, batch, options, mesh=None):
    """((log-probs, entropies), gradients, (loss sum, count, sums) of every aggregation) of one program."""
    policy = Policy(cfg, mesh or mesh_lib.make_mesh(1, 1, 1))

    def objective(trained, base, rows):
        params, total, found = policy.merge(trained, base), 0.0, []
        for weight, aggregation in enumerate(loss.AGGREGATIONS, start=1):
            options.aggregation = aggregation
            found.append(dapo_programs.loss_fn(policy, options, params, rows))
            total += weight * found[-1][0]
        return total, (found, dapo_programs.policy_logprobs(policy, options.temperature, params, rows))

    def one(trained, base, rows):
        (_, (found, logprobs)), gradients = jax.value_and_grad(objective, has_aux=True)(trained, base, rows)
        return logprobs, gradients, found

    def program(trained, base, batch):
        logprobs, *sums = jax.lax.map(lambda rows: one(trained, base, rows), batch)
        return logprobs, *jax.tree.map(lambda x: x.sum(0), sums)

    with jax.set_mesh(policy.mesh):
        trained, base = policy.split(policy.init_params(0))
        return jax.device_get(
            jax.jit(program)(trained, base, jax.device_put(batch, updates.update_sharding(policy.mesh)))
        )


def by_token(batch, values):
    """{(sampler log-prob, advantage): value} of the sampled tokens; the keys are random, so no two are equal."""
    keys = zip(*(np.asarray(x)[batch.mask].tolist() for x in (batch.sampler_logp, batch.advantages)), strict=True)
    return dict(zip(keys, np.asarray(values)[batch.mask].tolist(), strict=True))


def batches(items, options=None):
    """The update of separate samples, and that of samples that share prefixes."""
    both, options = [], options or settings()
    for share in (False, True):
        options.share_prefixes = share
        both += update_batch.build_batches(items, 1, updates.batch_shape(options, 100))
    return both


def assert_same(cfg, items, options, mesh=None, atol=2e-6):
    plain, shared = batches(items, options)
    assert shared.segments.astype(bool).sum() < plain.segments.astype(bool).sum()
    expected, *whole = measured(cfg, plain, options)
    logprobs, *found = measured(cfg, shared, options, mesh)
    for one, other in zip(expected, logprobs, strict=True):
        ours, theirs = by_token(plain, one), by_token(shared, other)
        assert ours.keys() == theirs.keys() and len(ours) == plain.tokens
        np.testing.assert_allclose([theirs[key] for key in ours], list(ours.values()), atol=atol)
        assert not other[~shared.mask].any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=100 * atol), found, whole)


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ({}, 0),
        pytest.param(
            {"smear_keys": True, "token_shift": 3, "local_layers": (1,), "window": 5}, 1, marks=pytest.mark.slow
        ),
        ({"attention": "blocked", "local_layers": (0,), "window": 4, "attention_softcap": 3.0}, 3),
        pytest.param({"lora": LoraConfig(rank=2), "remat": "full"}, 4, marks=pytest.mark.slow),
    ],
)
def test_log_probs_loss_and_gradients_are_those_of_separate_samples(options, seed):
    assert_same(dataclasses.replace(PLAIN, **options), groups(seed, 3), settings())


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 1, 1, 1), (1, 2, 2, 2)])
def test_a_mesh_changes_no_number(sizes):
    """Rows cut; rows, heads and positions cut, so that a source may lie on another device than its entry."""
    cfg = dataclasses.replace(PLAIN, kv_heads=2, smear_keys=True, token_shift=1, attention="blocked")
    mesh = mesh_lib.make_mesh(*sizes[:3], jax.devices()[: np.prod(sizes)], sequence=sizes[3])
    assert_same(cfg, groups(5, 3), settings(), mesh)


def test_what_is_shown_and_kept_of_an_update_is_that_of_separate_samples():
    items = groups(8)
    plain, shared = batches(items)
    own = {trajectory_sample._fingerprint(t): t for t, _ in items if t.generated}
    for update in (plain, shared):
        found = dict(trajectory_sample._sequences(update))
        assert found.keys() == own.keys()
        for key, place in found.items():
            sampled = own[key].trainable
            np.testing.assert_array_equal(update.targets[place], own[key].ids[sampled])
            np.testing.assert_array_equal(update.sampler_logp[place], own[key].logprobs[sampled])
    advantages = [np.sort(sample_histograms._by_episode(update)) for update in (plain, shared)]
    np.testing.assert_array_equal(*advantages)
    np.testing.assert_array_equal(advantages[0], np.sort([np.float32(a) for t, a in items if t.generated]))


def test_flops_and_the_share_of_shared_tokens_count_what_is_computed():
    sampled = [t for t, _ in groups(9, 1)]
    while len(sampled) < 2:
        sampled.append(sampled[0])
    scores = [rewards.Reward(float(i), 1, 0, 1, float(i), ()) for i in range(len(sampled))]
    group = Group(0, 0, "ramp_1", tuple(sampled), tuple(scores))
    options, means = settings(share_prefixes=True, minibatches=1, old_logprobs="sampler"), metrics.Mean()
    shape = updates.batch_shape(settings(share_prefixes=True), 100)
    (update,) = updates.build_updates([group], options, shape, None, 0, means)
    prefixes = {tuple(t.ids[:n]) for t in sampled for n in range(1, len(t.ids) + 1)}
    whole = sum(len(t.ids) for t in sampled)
    assert means.result()["shared_tokens"] == pytest.approx((whole - len(prefixes)) / whole)
    computed = updates.model_flops(PLAIN, options, [update])["update"]
    load = updates.flops.Load(len(prefixes), sum(map(len, prefixes)), 0, sum(t.generated for t in sampled))
    assert computed == updates.flops.training(PLAIN, load)
