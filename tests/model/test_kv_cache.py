"""Prefill, append and decode with ragged rows equal one full forward; row operations touch only the rows they name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import CONFIGS, one_device, random_ids, scattered_params

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model import transformer
from masksearch_jax.runtime import mesh as mesh_lib

extend = jax.jit(transformer.extend, static_argnums=0)
forward = jax.jit(transformer.forward, static_argnums=0)
TIME = 24
CHUNK = 9


def full_hidden(cfg, params, ids):
    index = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return np.asarray(forward(cfg, params, ids, index, np.ones(ids.shape, np.int32)))


def feed(cfg, params, cache, ids, schedule):
    """Appends ids row by row after `schedule` (a list of counts [B]); returns the hidden of each row, in order."""
    done = np.zeros(len(ids), int)
    rows = [[] for _ in ids]
    for counts in map(np.asarray, schedule):
        width = 1 if counts.max() <= 1 else CHUNK  # two compiled shapes, as in a rollout
        chunk = np.full((len(ids), width), 5)  # ids beyond the count must not matter
        for b, n in enumerate(counts):
            chunk[b, :n] = ids[b, done[b] : done[b] + n]
        hidden, cache = extend(cfg, params, cache, chunk.astype(np.int32), counts)
        hidden = np.asarray(hidden)
        for b, n in enumerate(counts):
            rows[b].append(hidden[b, :n])
        done += counts
    np.testing.assert_array_equal(cache.lengths, done)
    return [np.concatenate(row) for row in rows], cache


# Ragged prefill, single tokens, rows that pause, an appended observation, more single tokens.
SCHEDULE = [(6, 3, 9), (1, 1, 1), (0, 1, 1), (1, 0, 0), (7, 0, 4), (1, 1, 0), (0, 5, 1), (1, 1, 1)]


@pytest.mark.parametrize("ends", [pytest.param(TIME, marks=pytest.mark.slow), (7, 16, TIME)])
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_append_decode_equals_one_forward(name, ends):
    cfg = CONFIGS[name]
    params = scattered_params(cfg)
    ids = random_ids(cfg, 3, TIME, seed=2)
    rows, _ = feed(cfg, params, kv.init_cache(cfg, 3, ends, one_device()), ids, SCHEDULE)
    for got, expected in zip(rows, full_hidden(cfg, params, ids), strict=True):
        np.testing.assert_allclose(got, expected[: len(got)], atol=1e-5)


def test_the_first_blocks_are_a_cache_of_their_own():
    """Rows that outgrow them are left alone, and the rest of the cache is what it was."""
    cfg = CONFIGS["tiny"]
    params = scattered_params(cfg)
    ids = random_ids(cfg, 3, TIME, seed=4)
    _, cache = feed(cfg, params, kv.init_cache(cfg, 3, (8, 16, TIME), one_device()), ids, [(9, 3, 0), (9, 0, 5)])
    for time, ends in ((1, (8,)), (8, (8,)), (9, (8, 16)), (16, (8, 16)), (17, (8, 16, TIME))):
        assert kv.split(cache, time)[0].ends == ends
    head, rest = kv.split(cache, 16)
    hidden, head = extend(cfg, params, head, ids[:, 3:8].astype(np.int32), np.array([0, 5, 5]))
    np.testing.assert_allclose(hidden[1], full_hidden(cfg, params, ids)[1, 3:8], atol=1e-5)
    after = kv.rejoin(head, rest)
    assert after.lengths.tolist() == [18, 8, 10] and after.ends == cache.ends
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), after, cache)
    with pytest.raises(ValueError, match="time 25 is beyond a cache of time 24"):
        kv.split(cache, 25)


@pytest.mark.slow
def test_sharded_decode_equals_unsharded():
    cfg = CONFIGS["qwen3"]  # its one key-value head is replicated over the tensor axis
    params = scattered_params(cfg)
    ids = random_ids(cfg, 4, TIME, seed=2)
    schedule = [(6, 3, 9, 2), (1, 1, 0, 1), (2, 0, 4, 0)]
    expected, _ = feed(cfg, params, kv.init_cache(cfg, 4, TIME, one_device()), ids, schedule)
    mesh = mesh_lib.make_mesh(2, 2, 2)
    placed = jax.device_put(params, transformer.param_shardings(cfg, mesh, mesh_lib.DECODE))
    got, _ = feed(cfg, placed, kv.init_cache(cfg, 4, (7, TIME), mesh), ids, schedule)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, expected)


def test_a_cache_is_laid_out_for_decoding():
    mesh = mesh_lib.make_mesh(2, 2, 2)
    cache = kv.init_cache(CONFIGS["tiny"], 4, TIME, mesh)
    assert (cache.batch, cache.time) == (4, TIME)
    assert cache.k[0][0].sharding.spec == jax.P(("data", "fsdp"), "tensor")
    assert cache.lengths.sharding.spec == jax.P(("data", "fsdp"))
    with pytest.raises(ValueError, match=r"array cache: axis 'batch' has size 6, which 4 shards"):
        kv.init_cache(CONFIGS["tiny"], 6, TIME, mesh)


def test_a_group_prompt_is_prefilled_once_and_copied():
    cfg = CONFIGS["tiny"]
    params = scattered_params(cfg)
    ids = random_ids(cfg, 3, TIME, seed=6)
    _, prefix = feed(cfg, params, kv.init_cache(cfg, 3, 12, one_device()), ids, [(5, 7, 0)])
    slots = kv.init_cache(cfg, 3, (4, 10, TIME), one_device())
    _, slots = feed(cfg, params, slots, np.full((3, 9), 3), [(9, 2, 4)])  # slots were used before
    copy = jax.jit(lambda cache, rows, prefix, owner: kv.put_rows(cache, rows, kv.take_rows(prefix, owner)))
    cache = copy(slots, np.array([2, 0]), prefix, np.array([0, 1]))
    np.testing.assert_array_equal(cache.lengths, [7, 2, 5])
    rest = np.zeros((3, CHUNK), np.int32)
    rest[0, :4], rest[2, :4] = ids[1, 7:11], ids[0, 5:9]
    hidden, _ = extend(cfg, params, cache, rest, np.array([4, 0, 4]))
    expected = full_hidden(cfg, params, ids)
    np.testing.assert_allclose(hidden[2, :4], expected[0, 5:9], atol=1e-5)
    np.testing.assert_allclose(hidden[0, :4], expected[1, 7:11], atol=1e-5)


def test_rows_are_copied_within_a_cache():
    cfg = CONFIGS["tiny"]
    params = scattered_params(cfg)
    _, cache = feed(
        cfg, params, kv.init_cache(cfg, 4, (4, TIME), one_device()), random_ids(cfg, 4, 9, 2), [(4, 9, 2, 7)]
    )
    # Rows 0 and 1 are exchanged, row 2 goes to row 3, and the others are no rows.
    copied = jax.jit(kv.copy_rows)(cache, np.array([1, 4, 0, 3, -1]), np.array([0, 1, 1, 2, 9]))
    expected = jax.tree.map(lambda x: np.asarray(x)[[1, 0, 2, 2]], cache)
    jax.tree.map(np.testing.assert_array_equal, copied, expected)


def test_rows_with_no_new_tokens_and_dropped_rows_are_untouched():
    cfg = CONFIGS["tiny"]
    params = scattered_params(cfg)
    _, cache = feed(cfg, params, kv.init_cache(cfg, 3, TIME, one_device()), np.full((3, 9), 7), [(4, 9, 2)])
    for width in (1, CHUNK):
        _, after = extend(cfg, params, cache, np.ones((3, width), np.int32), np.zeros(3, np.int32))
        jax.tree.map(np.testing.assert_array_equal, after, cache)
    outside = kv.put_rows(cache, jnp.array([3, -1, 99]), kv.take_rows(cache, jnp.array([1, 1, 1])))
    jax.tree.map(np.testing.assert_array_equal, outside, cache)
    with pytest.raises(ValueError, match="time 24 does not fit into a cache of time 8"):
        kv.put_rows(kv.init_cache(cfg, 3, 8, one_device()), jnp.arange(3), cache)


@pytest.mark.parametrize("steps", [1, CHUNK])
def test_a_full_row_takes_no_more(steps):
    cfg = CONFIGS["tiny"]
    params = scattered_params(cfg)
    schedule = [(9, 9, 9), (9, 9, 9), (6, 5, 0)]
    _, cache = feed(cfg, params, kv.init_cache(cfg, 3, TIME, one_device()), random_ids(cfg, 3, TIME), schedule)
    _, after = extend(cfg, params, cache, np.full((3, steps), 2, np.int32), np.full(3, steps, np.int32))
    np.testing.assert_array_equal(after.lengths, [24, 24, min(24, 18 + steps)])
    np.testing.assert_array_equal(after.k[0][0][0], cache.k[0][0][0])
    np.testing.assert_array_equal(after.v[1][0][1, :, :23], cache.v[1][0][1, :, :23])


@pytest.mark.parametrize("steps", [1, 3])
def test_write_equals_a_loop(steps):
    rng = np.random.default_rng(0)
    into, new = rng.normal(size=(4, 2, 10, 3)), rng.normal(size=(4, 2, steps, 3))
    lengths, counts = np.array([0, 4, 7, 9]), np.minimum(np.array([3, 0, 2, 1]), steps)
    expected = into.copy()
    for b in range(4):
        expected[b, :, lengths[b] : lengths[b] + counts[b]] = new[b, :, : counts[b]]
    for cuts in ([], [5], [4, 8]):
        blocks = [jnp.asarray(block) for block in np.split(into, cuts, axis=2)]
        got = kv.write(blocks, *map(jnp.asarray, (new, lengths, counts)))
        np.testing.assert_allclose(np.concatenate(got, axis=2), expected, rtol=1e-6)
