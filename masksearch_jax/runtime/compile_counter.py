"""How many programs this process compiled, and how long that took.

JAX reports each compilation to listeners. Programs that come from the persistent cache are reported too, with the time
that loading took. Tracing and lowering are not part of the seconds.
"""

import functools

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """programs, seconds: of all compilations since the counter was made."""

    def __init__(self) -> None:
        self.programs, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _EVENT:
            self.programs += 1
            self.seconds += duration_secs


@functools.cache
def counter() -> CompileCounter:
    """Return the counter of this process, which counts from the first call on."""
    return CompileCounter()
