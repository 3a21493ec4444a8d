"""Seconds of an iteration by what they were spent on."""

import time


class Stopwatch:
    """Adds the time since the last call to one name after the other."""

    def __init__(self):
        self._last, self._seconds = time.perf_counter(), {}

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to `name`."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """Return {name: seconds} and start over from the last lap."""
        taken, self._seconds = self._seconds, {}
        return taken
