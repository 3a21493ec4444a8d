from masksearch_jax.rollout import episode_text


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
