"""Seconds of an iteration by what they were spent on. A trace of the iteration (step_trace.py) shows the same names."""

import time

import jax


class Stopwatch:
    """Adds the time from each `start` to the next one to the name that it was given.

    Time before the first `start`, and after a `pause`, is `since_last`: what lies between two iterations.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._name, self._since = "since_last", time.perf_counter()
        self._shown: jax.profiler.TraceAnnotation | None = None

    def start(self, name: str) -> None:
        """Count the time from now on as `name`, and show it in a trace."""
        self._switch(name)
        self._shown = jax.profiler.TraceAnnotation(name)
        self._shown.__enter__()

    def pause(self) -> None:
        """Count the time from now on as `since_last`."""
        self._switch("since_last")

    def take(self) -> dict[str, float]:
        """Return {name: seconds} up to now and begin anew; the name that counts stays the same."""
        self._add()
        taken, self._seconds = self._seconds, {}
        return taken

    def _switch(self, name: str) -> None:
        self._add()
        if self._shown is not None:
            self._shown.__exit__(None, None, None)
            self._shown = None
        self._name = name

    def _add(self) -> None:
        now = time.perf_counter()
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._since
        self._since = now
