"""The choices of a completion: several replies that are written at the same time, and arrive part by part.

Enters: a plan for each choice. Leaves: parts of choices, in the order in which they are written. Whoever stops to read
them ends all sessions.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence

from masksearch_jax.rollout.episode import Ending
from masksearch_jax.serving.engine import ServingEngine
from masksearch_jax.serving.reply_text import ReplyText, Vocabulary
from masksearch_jax.serving.session import Sampling, Token


@dataclasses.dataclass(frozen=True)
class Plan:
    """One choice. budget: tokens to write. stop: strings that end it. alternatives: likeliest tokens to report.

    echo: it begins with the prompt. scored: and with the log-probs of the prompt."""

    prompt: list[int]
    budget: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    alternatives: int = 0
    echo: bool = False
    scored: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """What a choice has got since its last part. prompt: tokens of the prompt; tokens: those that the model wrote.

    finish: 'stop' (an end token or a stop string), 'length' (the budget is spent), or '' while it goes on."""

    index: int
    text: str
    tokens: list[Token]
    prompt: tuple[Token, ...] = ()
    finish: str = ""


async def write_choices(
    engine: ServingEngine, vocabulary: Vocabulary, plans: Sequence[Plan]
) -> AsyncGenerator[Part, None]:
    """Yield the parts of all choices, until each has finished. Raises what the engine raises, such as BusyError."""
    arrived: asyncio.Queue[Part | Exception] = asyncio.Queue()

    async def collect(index: int, plan: Plan) -> None:
        try:
            async for part in _write(engine, vocabulary, index, plan):
                arrived.put_nowait(part)
        except Exception as error:  # whatever it is, the reader has to get it
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(collect(index, plan)) for index, plan in enumerate(plans)]
    try:
        left = len(plans)
        while left:
            part = await arrived.get()
            if isinstance(part, Exception):
                raise part
            left -= bool(part.finish)
            yield part
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _write(engine: ServingEngine, vocabulary: Vocabulary, index: int, plan: Plan) -> AsyncGenerator[Part, None]:
    if plan.echo and not plan.scored:
        yield Part(index, vocabulary.whole_text(plan.prompt), [], finish="" if plan.budget else "length")
        if not plan.budget:
            return
    reply = ReplyText(vocabulary, plan.stop)
    with engine.session(
        plan.prompt, plan.budget, plan.sampling, alternatives=plan.alternatives, scored=plan.scored
    ) as session:
        if plan.scored:
            scores = await session.scores()
            text = vocabulary.whole_text(plan.prompt)
            yield Part(index, text, [], tuple(scores), finish="" if plan.budget else "length")
        if not plan.budget:
            return
        async for piece in session.pieces():
            taken: list[Token] = []
            text = ""
            for token in piece.tokens:
                taken.append(token)
                text += reply.add(token.id)
                if reply.stopped:
                    break
            finish = {Ending.EOS: "stop", Ending.LIMIT: "length"}.get(piece.ending, "")
            finish = "stop" if reply.stopped else finish
            if finish:
                text += reply.finish()
            yield Part(index, text, taken, finish=finish)
            if finish:
                return
