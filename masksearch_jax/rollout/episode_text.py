"""An episode as readable text: what the policy was asked, and what it wrote and read in each turn.

The text goes to terminals. Passages and policies may write any character, so those that steer a terminal (escape
sequences) or turn the direction of what follows are shown as U+FFFD.
"""

import re
from collections.abc import Iterable, Sequence

from masksearch_jax.data.records import Task
from masksearch_jax.rollout.trajectory import Trajectory

_LONGEST = 600  # a task, a turn or an observation is cut to this many characters
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def trajectory_text(task: Task, trajectory: Trajectory, facts: str) -> str:
    """Return one episode as readable lines. facts: text for the first line, such as the reward."""
    heading = f"{task.id}, sample {trajectory.sample}: {trajectory.generated} tokens, {facts}"
    return episode_text(heading, task.text, task.answers, ((t.text, t.error, t.observation) for t in trajectory.turns))


def episode_text(heading: str, text: str, golds: Sequence[Sequence[str]], turns: Iterable[tuple[str, str, str]]) -> str:
    """Return one episode as readable lines.

    text: of the task. golds: accepted answers of each mask. turns: for each turn what the policy wrote, why that was no
    valid action ('' if it was valid), and what the policy read ('' for nothing).
    """
    lines = [f"--- {heading}", f"task: {_cut(text)}", f"gold: {'; '.join(accepted[0] for accepted in golds)}"]
    for number, (written, error, read) in enumerate(turns, start=1):
        lines.append(f"turn {number}: {_cut(written)}" + (f"  [{error}]" if error else ""))
        if read:
            lines.append(f"   read: {_cut(read)}")
    return "\n".join(map(without_steering, lines))


def without_steering(line: str) -> str:
    """Return a line for a terminal, with U+FFFD for each character that steers one or turns the text's direction."""
    return _STEERING.sub("\ufffd", line)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} .."
