"""How reports call a task or a suite."""

from masksearch_jax.data.records import masks_of
from masksearch_jax.evals.benchmarks import BENCHMARKS

_LABELS = {"qa": "questions", "tool_warmup": "tool warm-up", "ramp_1_open": "1 mask, source allowed"}


def task_label(name: str) -> str:
    """Return the label of a task or suite: '2 masks' for 'ramp_2', the title of a benchmark, or the name in words."""
    if masks := masks_of(name):
        return f"{masks} mask" + ("s" if masks > 1 else "")
    return BENCHMARKS[name].title if name in BENCHMARKS else _LABELS.get(name, name)
