"""The observer (paper, section 2.2): reads what a search returned, then answers, goes on, or reflects and retries."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from masksearch_jax.agents import prompts
from masksearch_jax.agents.problem import Problem
from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Message, Sampling
from masksearch_jax.llm.client import Client


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The observer's reply. useful: numbers (from 1) of the shown passages that it relies on."""

    thought: str
    verdict: Literal["answer", "continue", "retry"]
    useful: list[int]
    step: str
    query: str
    answers: list[str]


def observe(
    client: Client,
    problem: Problem,
    done: Sequence[tuple[str, Sequence[str], str]],
    shown: Sequence[tuple[str, str]],
    notes: Sequence[tuple[str, str]],
    last: bool,
    words: int,
    sampling: Sampling,
    attempts: int,
) -> Verdict:
    """Ask the observer what to do after a search.

    done: the searches so far, this one last, as prompts.steps takes them. shown: (title, text) of what this search
    returned. notes: (title, text) of the passages of earlier searches that the observer relied on. last: no more
    searches can be made. words: the longest thought."""

    def fault(reply: Verdict) -> str:
        if any(not 1 <= number <= len(shown) for number in reply.useful):
            return f"useful names passages {reply.useful}, there are {len(shown)}"
        if len(reply.thought.split()) > words:
            return f"thought has {len(reply.thought.split())} words, at most {words} are allowed"
        if reply.verdict == "answer":
            return problem.fault(reply.answers)
        if not reply.step.strip() or not reply.query.strip():
            return f"verdict {reply.verdict!r} needs a step and a query"
        return ""

    form = "" if problem.kind == "qa" else f", {problem.blanks} of them, one for each [mask] in order"
    form = form or ", a list of one"
    parts = [
        prompts.task(problem),
        f"Searches so far:\n{prompts.steps(done)}",
        f"Passages relied on before:\n{prompts.passages(notes)}",
        f"Passages of this search:\n{prompts.passages(shown)}",
        *(["No more searches can be made."] if last else []),
        f"Reply: {structured.shape(Verdict)}",
    ]
    messages = [
        Message("system", prompts.OBSERVER.format(answers=form, words=words)),
        Message("user", "\n\n".join(parts)),
    ]
    return structured.ask(client, messages, Verdict, sampling, attempts, fault)
