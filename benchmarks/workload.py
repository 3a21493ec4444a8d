"""The workload that we and the peers replay: a scaled-down Qwen2.5, and the token counts of 128 search episodes.

Lengths are drawn once from a long-tailed distribution, as search episodes have them: most turns are short, a few are
long, and each search adds a block of retrieved text. The generator is that of the peers' scripts, draw for draw
(tests/benchmarks/test_workload.py holds its first numbers), so that both sides do the same work.
"""

import dataclasses
import random

from masksearch_jax.model.config import ModelConfig

MODEL = ModelConfig(
    vocab_size=8192,
    layers=4,
    embed=256,
    heads=8,
    kv_heads=4,
    head_dim=32,
    ff=1024,
    mlp="swiglu",
    rope_base=10_000.0,
    rope_fraction=1.0,
    qkv_bias=True,
    tie_embeddings=True,
    smear_keys=False,
    scan_unroll=4,
)
SFT_ROWS, SFT_LENGTH = 8, 512


@dataclasses.dataclass(frozen=True)
class Episode:
    """The token counts of one episode.

    prompt: tokens of the task, shared by the episodes of a group. turns: (generated, observed) tokens of each turn; the
    last one is the answer and observes nothing.
    """

    group: int
    prompt: int
    turns: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """The number of all tokens of the episode."""
        return self.prompt + sum(map(sum, self.turns))


def episodes(groups: int = 16, group_size: int = 8, seed: int = 0) -> list[Episode]:
    """Return the episodes of `groups` prompts, drawn with `seed`.

    A prompt has 64 to 192 tokens. An episode has 1 to 4 searches, with 8 to 96 tokens in a search turn, 96 to 128 in an
    observation and 4 to 64 in the answer.
    """
    rng, found = random.Random(seed), []
    for group in range(groups):
        prompt = rng.randint(64, 192)
        for _ in range(group_size):
            searches = rng.choice((1, 1, 2, 2, 3, 4))
            turns = [(min(96, 8 + int(rng.expovariate(1 / 20))), rng.randint(96, 128)) for _ in range(searches)]
            turns.append((min(64, 4 + int(rng.expovariate(1 / 12))), 0))
            found.append(Episode(group, prompt, tuple(turns)))
    return found
