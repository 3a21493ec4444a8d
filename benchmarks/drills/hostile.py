"""Hostile passages: whatever a search brings, an episode does what its policy says and nothing else."""

import random
from pathlib import Path

from benchmarks.drills import hostile_text, scripted_episodes
from benchmarks.drills.outcomes import Outcome
from masksearch_jax.retrieval.interface import Hit

PASSAGES = 1000  # of one drill
_HITS, _SEARCHES = 3, 3


def drill(number: int, seed: int, folder: Path) -> Outcome:
    """Play episodes over PASSAGES hostile passages, half of them in each kind of tokenizer."""
    rng = random.Random(f"hostile {seed} {number}")
    tokenizers = scripted_episodes.both_tokenizers(folder / "tokenizers")
    lost: list[str] = []
    count = episodes = 0

    def search(query: str) -> list[Hit]:
        nonlocal count
        count += _HITS
        return [Hit(i, i, hostile_text.passage(rng)[:300], hostile_text.passage(rng), 1.0) for i in range(_HITS)]

    while count < PASSAGES:
        words = tokenizers[episodes % 2]
        script = scripted_episodes.Script(
            tuple(f"query {number} in episode {episodes} turn {turn}" for turn in range(_SEARCHES)),
            f"answer {number} {episodes}",
        )
        found = scripted_episodes.forged(words, script, search)
        lost += [f"episode {episodes} ({type(words).__name__}): {one}" for one in found]
        episodes += 1
    return Outcome(count, tuple(lost), f"{episodes} episodes")
