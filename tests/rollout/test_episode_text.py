import episodes
import numpy as np

from masksearch_jax.rollout import episode_text
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn


def test_an_episode_is_shown_turn_by_turn_and_cut():
    turns = [
        ("<think> who?</think><search> Karn\n Velith</search>", "", "<information> Karn: born " + "x " * 600),
        ("no tag", "one search or answer expected", ""),
    ]
    text = episode_text.episode_text(
        "7.0.1: 12 tokens", "Karn was born in [mask].", [["Tolm", "Tolm Dorvan"], ["3"]], turns
    )
    lines = text.splitlines()
    assert lines[:3] == ["--- 7.0.1: 12 tokens", "task: Karn was born in [mask].", "gold: Tolm; 3"]
    assert lines[3] == "turn 1: <think> who?</think><search> Karn Velith</search>"
    assert lines[4].startswith("   read: <information> Karn: born x x") and len(lines[4]) < 650
    assert lines[4].endswith(" ..") and lines[5] == "turn 2: no tag  [one search or answer expected]"


def test_a_trajectory_is_shown_with_its_facts():
    turns = (Turn("search", 2, 4, "<search> q</search>", query="q", observation="<information> x</information>"),)
    one = Trajectory(
        "t", 0, 3, np.arange(5), np.arange(5) >= 2, np.zeros(5, np.float32), np.zeros(5, np.int32), 2, turns,
        StopReason.TURNS, answer="",
    )  # fmt: skip
    task = episodes.task()
    lines = episode_text.trajectory_text(task, one, "reward 0.5").splitlines()
    assert lines[0] == f"--- {task.id}, sample 3: 3 tokens, reward 0.5" and lines[1] == f"task: {task.text}"
    assert lines[3:] == ["turn 1: <search> q</search>", "   read: <information> x</information>"]


def test_nothing_that_an_episode_holds_steers_a_terminal():
    hostile = "a\x1b[2J\x1b]0;title\x07 \x9b31m b\u202ec\u2066d\x08\x7f"
    text = episode_text.episode_text(hostile, hostile, [[hostile]], [(hostile, "", hostile)])
    assert all(c.isprintable() or c == "\n" for c in text) and text.count("a\ufffd[2J") == 5
    shown = "na\u00efve \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u65e5\u672c"  # a joiner of Persian stays
    assert shown in episode_text.episode_text("1", shown, [], [])
