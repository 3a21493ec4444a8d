"""A trace of chosen steps of a stage: the setting `profile`, written to W/<stage>/profile for xprof or Perfetto.

Enters: 'FROM:TO', which reads as a slice of Python does: steps FROM to TO - 1 of SFT, or iterations of DAPO. Leaves: a
folder `plugins/profile/<first>_to_<last>` with the events of devices and host. With several processes process 0 alone
writes, because all of them do the same work on devices of the same kind. A resumed run traces those of the steps that
it still takes, in a folder of its own. Functions of Python are not traced, since that slows down the host. The stages
have names of their own: trainers/stopwatch.py, rollout/phase_clock.py, and the named scopes of the model.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax


def parse(profile: str) -> range:
    """Return the steps of 'FROM:TO'; none for ''. Raises ValueError for anything else, also if no step is in it."""
    if not profile:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", profile)
    steps = range(int(found[1]), int(found[2])) if found else range(0)
    if not steps or not steps.start:
        raise ValueError("give FROM:TO with 1 <= FROM < TO, such as 10:13 for steps 10, 11 and 12")
    return steps


class StepTrace:
    """Traces the steps `parse(profile)` as they are taken."""

    def __init__(self, profile: str, folder: Path, label: str, print_message: Callable[[str], None], primary: bool):
        """label: of a step in the trace. print_message: prints a line for a person. primary: False traces nothing."""
        self._wanted = parse(profile) if primary else range(0)
        self._folder, self._label, self._print_message = folder, label, print_message
        self._first: int | None = None  # step that the running trace began with

    def around(self, steps: Iterable[int]) -> Iterator[int]:
        """Yield from `steps` and trace those that are wanted. What the body of a loop does belongs to its step."""
        step = 0
        try:
            for step in steps:
                if self._first is None and step in self._wanted:
                    self._start(step)
                with jax.profiler.StepTraceAnnotation(self._label, step_num=step):
                    yield step
                if self._first is not None and step + 1 not in self._wanted:
                    jax.block_until_ready(jax.live_arrays())  # steps are still running on the devices
                    self.stop(step)
        finally:
            self.stop(step)  # the run ends early, or trains no further

    def _start(self, step: int) -> None:
        jax.block_until_ready(jax.live_arrays())  # so that no earlier step is in the trace
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.session_id = f"{step}_to_{self._wanted[-1]}"  # by default the second at which it starts
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._first = step

    def stop(self, step: int) -> None:
        """Write the trace that is running, if one is. step: the last one in it."""
        if self._first is None:
            return
        first, self._first = self._first, None
        jax.profiler.stop_trace()
        self._print_message(
            f"wrote a trace of {first} to {step} to {self._folder}; docs/guides/profiling.md says how to open it"
        )
