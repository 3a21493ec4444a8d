"""The judge (paper, section 2.2): token recall or a language model decides whether the final answer is right.

It is the only agent that sees gold answers.
"""

import dataclasses
from collections.abc import Sequence

from masksearch_jax.agents import prompts
from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Message, Sampling
from masksearch_jax.llm.client import Client
from masksearch_jax.runtime.types import Setting
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import tags


@dataclasses.dataclass(frozen=True)
class Judgement:
    reason: str
    correct: bool


def recalls(given: Sequence[str], golds: Sequence[Sequence[str]]) -> list[float]:
    """Return the token recall of each answer, the paper's metric."""
    return [answer_metrics.token_recall(one, accepted) for one, accepted in zip(given, golds, strict=True)]


def by_model(
    client: Client,
    text: str,
    given: Sequence[str],
    golds: Sequence[Sequence[str]],
    sampling: Sampling,
    attempts: int,
    **limits: Setting,
) -> Judgement:
    """Ask the model whether the given answers are right.

    limits: timeout_s and retries, as Client.complete takes them. Raises what structured.ask does."""
    pairs = "\n".join(
        f"{number}. accepted: {' | '.join(accepted)}\n   given: {tags.neutralise(one)}"
        for number, (one, accepted) in enumerate(zip(given, golds, strict=True), 1)
    )
    messages = [
        Message("system", prompts.JUDGE),
        Message(
            "user",
            f"Task:\n{text}\n\nAnswers:\n{pairs}\n\ncorrect is true only if every given answer is right.\n"
            f"Reply: {structured.shape(Judgement)}",
        ),
    ]
    return structured.ask(client, messages, Judgement, sampling, attempts, **limits)
