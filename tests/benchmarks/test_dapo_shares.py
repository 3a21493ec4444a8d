import pytest

from benchmarks import dapo


def row(scale, since_last):
    phases = ("prefill_s", "extend_s", "decode_s", "search_wait_s", "host_s", "overlap_s")
    seconds = {"seconds/rollout": 8 * scale, "seconds/reshard": scale, "seconds/logprobs": 2 * scale}
    return {f"rollout/{name}": scale for name in phases} | seconds | {
        "seconds/update": 5 * scale, "seconds/since_last": since_last,
    }  # fmt: skip


def test_shares_add_up_to_one_and_take_the_checkpoint_from_the_next_row():
    # The first row compiles; the last one has nothing after it yet.
    shares = dapo.shares([row(100, 0), row(1, 7), row(2, 4), row(1, 8)])
    assert shares.pop("seconds") == pytest.approx((16 + 4 + 32 + 8) / 2)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["decode"] == pytest.approx(1 / 20) and shares["rewards_and_tasks"] == pytest.approx(2 / 20)
    assert shares["checkpoint_and_evaluation"] == pytest.approx(4 / 20) and shares["update"] == pytest.approx(5 / 20)
