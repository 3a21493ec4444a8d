import numpy as np

from masksearch_jax.rollout import bucketing


def test_rungs_hold_their_size_or_are_the_largest():
    buckets = bucketing.clipped((4, 16, 64, 256), 100)
    assert buckets == (4, 16, 64, 100)
    assert [bucketing.bucket_for(buckets, size) for size in (1, 4, 5, 64, 65, 500)] == [4, 4, 16, 64, 100, 100]


def test_buckets_to_the_end_holds_whatever_may_come():
    for buckets, expected in (((40, 64), (40, 64, 256)), ((), (256,)), ((64, 256, 900), (64, 256))):
        found = bucketing.to_the_end(buckets, 256)
        assert found == expected and all(bucketing.bucket_for(found, size) >= size for size in range(257))


def test_row_chunks_cover_every_row_once():
    for count in range(1, 60):
        chunks = bucketing.row_chunks(count, (4, 16))
        assert sum((list(range(count))[part] for part, _ in chunks), []) == list(range(count))
        assert all(part.stop - part.start <= rows for part, rows in chunks)
    assert bucketing.row_chunks(19, (4, 16)) == [(slice(0, 16), 16), (slice(16, 19), 4)]


def test_shard_chunks_give_each_shard_its_own_rows():
    rng = np.random.default_rng(0)
    for _ in range(50):
        slots = rng.permutation(32)[: rng.integers(1, 32)].tolist()
        chunks = bucketing.shard_chunks(slots, per_shard=8, shards=4, buckets=(4, 16))
        assert sorted(slot for chunk in chunks for slot in chunk if slot < 32) == sorted(slots)
        for chunk in chunks:
            assert len(chunk) in (4, 16)
            for shard, part in enumerate(chunk.reshape(4, -1)):
                assert all(slot == 32 or slot // 8 == shard for slot in part)
        if len(slots) < 8:
            assert len(chunks) <= 2
    # One shard: the given order, widest first.
    (wide, rest) = bucketing.shard_chunks([5, 3, 4, 1, 0], per_shard=8, shards=1, buckets=(2, 4))
    assert wide.tolist() == [5, 3, 4, 1] and rest.tolist() == [0, 8]


def test_extend_calls_feed_every_token_once_in_order():
    rng = np.random.default_rng(0)
    for _ in range(50):
        slots = rng.permutation(32)[: rng.integers(1, 32)].tolist()
        lengths = {slot: int(rng.integers(1, 40)) for slot in slots}
        calls = bucketing.extend_calls(lengths, 8, 4, (4, 16), (3, 16))
        fed = dict.fromkeys(slots, 0)
        for call in calls:
            assert len(call.targets) in (4, 16) and call.size in (3, 16)
            for slot in call.targets[call.targets < 32].tolist():
                assert fed[slot] == call.start < lengths[slot]
                fed[slot] += min(call.size, lengths[slot] - call.start)
        assert fed == lengths
        assert bucketing.padded_tokens(calls) == sum(len(call.targets) * call.size for call in calls)
    assert bucketing.extend_calls({}, 8, 4, (4,), (3,)) == []


def test_padding_keeps_counts():
    ids, counts = bucketing.padded([np.array([7, 8]), np.array([], int)], rows=3, length=4)
    assert ids.tolist() == [[7, 8, 0, 0], [0] * 4, [0] * 4] and counts.tolist() == [2, 0, 0]


def test_prefixes_are_shared_by_neighbours_of_one_group_and_prompt():
    a, b = np.array([1, 2]), np.array([1, 3])
    prefixes = bucketing.prefix_batches([0, 0, 1, 1, 1, 0], [a, a, a, b, b, a], rows=2)
    assert prefixes.place == [(0, 0), (0, 0), (0, 1), (1, 0), (1, 0), (1, 1)]
    assert prefixes.first == [[0, 2], [3, 5]]


def test_longest_first_keeps_groups_together():
    groups, expected = [0, 0, 1, 2, 2, 2, 1], [1, 5, 3, 2, 7, 1, 5]
    assert bucketing.longest_first(groups, expected) == [3, 4, 5, 0, 1, 6, 2]
    assert bucketing.longest_first(groups, [0.0] * 7) == list(range(7))
