"""Fuzzing with hypothesis: a few generated inputs in the quick suite, ten minutes of them by name; and growth of cost.

MASKSEARCH_FUZZ_SECONDS=600 bash launch/test.sh -m fuzz -s -k episode
"""

import functools
import inspect
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

_SECONDS = float(os.environ.get("MASKSEARCH_FUZZ_SECONDS", "0"))
_ROUND = 500  # inputs that one seed of a long run draws
_MEASURABLE = 0.004  # seconds of one call, below which its growth cannot be told from noise
_TOO_LONG = 20.0


def fuzz(*strategies: Any, examples: int = 60, **named: Any) -> Callable:
    """Decorate a test like `hypothesis.given`, with inputs drawn from the strategies.

    The quick suite draws the same `examples` inputs each time. With MASKSEARCH_FUZZ_SECONDS set, each test draws new
    ones for so long, from seeds that it prints, and says how many there were.
    """

    def decorate(test: Callable) -> Callable:
        counted = [0]

        @functools.wraps(test)
        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[0] += 1
            return test(*args, **kwargs)

        def drawing(count: int, derandomize: bool) -> Callable:
            given = hypothesis.given(*strategies, **named)(counting)
            return hypothesis.settings(
                max_examples=count,
                derandomize=derandomize,
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )(given)

        quick = drawing(examples, derandomize=True)

        @functools.wraps(quick)
        def run(*args: Any, **kwargs: Any) -> None:
            if not _SECONDS:
                quick(*args, **kwargs)
                return
            end = time.monotonic() + _SECONDS
            while time.monotonic() < end:
                seed = secrets.randbits(32)
                print(f"{test.__name__}: seed {seed}, {counted[0]} inputs so far", flush=True)
                hypothesis.seed(seed)(drawing(_ROUND, derandomize=False))(*args, **kwargs)

        run.__signature__ = inspect.signature(quick, follow_wrapped=False)
        return pytest.mark.fuzz(run)

    return decorate


def assert_grows_like_n_log_n(call: Callable[[Any], Any], make: Callable[[int], Any], largest: int = 400_000) -> None:
    """Assert that the CPU time of `call(make(n))` grows at most like n log n, from sizes that can be measured.

    Eight times the size may take 24 times as long: n log n takes about 10 times, n squared 64 times. Calls that are
    still too fast to measure at `largest` pass.
    """
    size = 256
    while (seconds := _cpu_seconds(call, make(size))) < _MEASURABLE:
        size *= 2
        if size * 8 > largest:
            return
    assert seconds < _TOO_LONG, f"size {size} takes {seconds:.1f} s"
    for factor in (2, 4, 8):
        longer = _cpu_seconds(call, make(size * factor))
        allowed = max(seconds * factor * 3, _MEASURABLE * 2)
        if longer >= allowed:  # once more: a machine short of memory charges its own work to whoever runs
            longer = min(longer, _cpu_seconds(call, make(size * factor)))
        assert longer < allowed, (
            f"size {size} takes {seconds:.4f} s, size {size * factor} {longer:.4f} s: more than n log n"
        )


def _cpu_seconds(call: Callable[[Any], Any], value: Any) -> float:
    """The least of three calls, which noise can only lengthen; of one call where that is long already."""
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        call(value)
        best = min(best, time.thread_time() - began)
        if best > 1.0:
            break
    return best
