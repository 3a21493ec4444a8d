"""Trees of sequences: every sampled token is in one, and a token sees its own prefix and nothing else."""

import numpy as np
import pytest

from masksearch_jax.rl import prefix_trees, update_batch
from masksearch_jax.rollout.trajectory import StopReason, Trajectory


def trajectory(rng, ids, group=0, sample=0, prompt=1):
    trainable = (np.arange(len(ids)) >= prompt) & (rng.random(len(ids)) < 0.7)
    return Trajectory(
        task_id=f"t{group}", group=group, sample=sample, ids=np.asarray(ids, np.int32), trainable=trainable,
        logprobs=np.where(trainable, -rng.random(len(ids)), 0).astype(np.float32),
        versions=np.where(trainable, rng.integers(0, 3), -1).astype(np.int32), prompt_length=prompt, turns=(),
        stop=StopReason.ANSWER, answer="",
    )  # fmt: skip


def groups(seed, count=3, most=30):
    """(trajectory, advantage) of groups whose samples are branches of each other, prefixes of each other, or equal."""
    rng, items = np.random.default_rng(seed), []
    for group in range(count):
        samples = [list(rng.integers(0, 5, rng.integers(4, 9)))]
        while len(samples) < rng.integers(1, 9):
            old = samples[rng.integers(len(samples))]
            kept = old[: rng.integers(3, len(old) + 1)]
            samples.append([*kept, *rng.integers(0, 5, rng.integers(0, most - len(kept) + 1))])
        items += [
            (trajectory(rng, ids, group, sample, prompt=2), float(rng.normal())) for sample, ids in enumerate(samples)
        ]
    return items


def shape(lengths=(32,), rows=2, share=True):
    return update_batch.BatchShape(lengths, rows, tuple(range(1, 40)), share_prefixes=share)


def sequences(update):
    """(prefix, target, log-prob, version, advantage) of each sampled token, by sequence: what each source sees."""
    found = []
    for micro, row in np.ndindex(*update.ids.shape[:2]):
        one = {name: np.asarray(getattr(update, name))[micro, row] for name in update.__dataclass_fields__}
        for number in range(1, one["sequences"].max(initial=0) + 1):
            entries = []
            for entry in np.flatnonzero(one["sequences"] == number):
                assert one["mask"][entry]
                source = one["sources"][entry]
                seen = [i for i in range(source + 1) if one["ends"][i] > source]
                assert one["positions"][seen].tolist() == list(range(len(seen)))
                entries.append((
                    one["ids"][seen].tobytes(), *(one[name][entry] for name in (
                        "targets", "sampler_logp", "versions", "advantages"))))  # fmt: skip
            found.append(tuple(entries))
    return sorted(found)


def expected(items):
    return sorted(
        tuple((t.ids[:i].tobytes(), t.ids[i], t.logprobs[i], t.versions[i], np.float32(a))
              for i in np.flatnonzero(t.trainable))
        for t, a in items if t.generated
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_every_sampled_token_is_an_entry_once_with_its_own_prefix_and_values(seed):
    items = groups(seed)
    for mini_batches in (1, 2):
        parts = [[items[i] for i in part] for part in np.array_split(np.arange(len(items)), mini_batches) if part.size]
        updates = update_batch.build_batches(items, mini_batches, shape())
        for update, part in zip(updates, parts, strict=True):
            assert sequences(update) == expected(part)
            assert update.tokens == sum(t.generated for t, _ in part)
            assert (update.versions[~update.mask] == -1).all() and not update.advantages[~update.mask].any()
            front = np.arange(32) < update.mask.sum(-1, keepdims=True)
            np.testing.assert_array_equal(update.mask, front)


@pytest.mark.parametrize("seed", range(10))
def test_a_row_holds_each_different_prefix_once(seed):
    items = groups(seed)
    for update in update_batch.build_batches(items, 1, shape()):
        for micro, row in np.ndindex(*update.ids.shape[:2]):
            ids, ends, segments = (getattr(update, name)[micro, row] for name in ("ids", "ends", "segments"))
            paths = [
                tuple(ids[[i for i in range(j + 1) if ends[i] > j]]) for j in np.flatnonzero(segments)
            ]  # fmt: skip
            assert len(set(paths)) == len(paths)
            padding = np.flatnonzero(segments == 0)
            np.testing.assert_array_equal(ends[padding], padding + 1)
            first = np.array([path[0] for path in paths])
            assert (first[1:] != first[:-1]).sum() == segments.max(initial=1) - 1


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_whose_group_fits_is_not_cut(seed):
    items = groups(seed)
    features = [{"ids": t.ids, "mask": t.trainable} for t, _ in items]
    of_group = [t.group for t, _ in items]
    rows = prefix_trees.assign_rows(features, of_group, 400)
    assert len(rows) == 1 and sorted(rows[0]) == list(range(len(items)))
    for length in (32, 48):
        rows = prefix_trees.assign_rows(features, of_group, length)
        assert sorted(i for row in rows for i in row) == list(range(len(items)))
        for group in set(of_group):
            own = [i for i, number in enumerate(of_group) if number == group]
            prefixes = {tuple(features[i]["ids"][:n]) for i in own for n in range(1, len(features[i]["ids"]) + 1)}
            if len(prefixes) <= length and sum(features[i]["mask"].sum() for i in own) <= length:
                assert any(set(own) <= set(row) for row in rows)


def test_by_hand():
    rng = np.random.default_rng(0)
    both = [trajectory(rng, ids, 0, sample) for sample, ids in enumerate(([5, 6, 7], [5, 6, 8, 9], [5, 6]))]
    for one in both:
        one.trainable[:] = np.arange(len(one.ids)) > 0
    update = update_batch.build_batches(list(zip(both, (1.0, 2.0, 3.0), strict=True)), 1, shape((7,), 1))[0]
    assert update.ids.tolist() == [[[5, 6, 7, 8, 9, 0, 0]]]
    assert update.positions.tolist() == [[[0, 1, 2, 2, 3, 0, 0]]]
    assert update.ends.tolist() == [[[5, 5, 3, 5, 5, 6, 7]]]
    assert update.targets.tolist() == [[[6, 6, 7, 6, 8, 9, 0]]]
    assert update.sources.tolist() == [[[0, 0, 1, 0, 1, 3, 0]]]
    assert update.sequences.tolist() == [[[1, 2, 2, 3, 3, 3, 0]]]
    assert update.advantages.tolist() == [[[3, 1, 1, 2, 2, 2, 0]]]


def test_entries_limit_a_row_as_tokens_do():
    """Eight equal samples are one path of three tokens with sixteen entries: rows of six hold three of them."""
    rng = np.random.default_rng(0)
    items = [(trajectory(rng, [1, 2, 3], 0, sample), 1.0) for sample in range(8)]
    for one, _ in items:
        one.trainable[:] = [False, True, True]
    (update,) = update_batch.build_batches(items, 1, shape((6,), 1))
    assert update.ids.shape == (3, 1, 6) and update.tokens == 16
    assert sequences(update) == expected(items)


def test_recomputed_log_probs_replace_those_of_their_version():
    items = groups(3)
    (update,) = update_batch.build_batches(items, 1, shape())
    recomputed = np.random.default_rng(0).normal(size=update.ids.shape).astype(np.float32)
    for version in (0, 1, None):
        new = update_batch.with_old_logp(update, recomputed, version).old_logp
        own = update.mask & (True if version is None else update.versions == version)
        assert own.any() and (version is None or not own[update.mask].all())
        np.testing.assert_array_equal(new, np.where(own, recomputed, update.sampler_logp))


def test_a_shape_with_one_sequence_in_a_row_is_refused():
    with pytest.raises(ValueError, match="share_prefixes puts several sequences into a row"):
        update_batch.BatchShape((8,), 1, packed=False, share_prefixes=True)


def test_a_sequence_that_fits_no_row_is_named():
    with pytest.raises(ValueError, match="number 0 has 9 tokens but row_length is 8"):
        prefix_trees.assign_rows([{"ids": np.arange(9, dtype=np.int32), "mask": np.zeros(9, bool)}], [0], 8)
