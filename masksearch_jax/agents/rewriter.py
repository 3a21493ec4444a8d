"""The rewriter (paper, section 2.2): turns one sub-query into several queries, and merges their results."""

import dataclasses
import itertools
from collections.abc import Sequence

from masksearch_jax.agents import prompts
from masksearch_jax.agents.problem import Problem
from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Message, Sampling
from masksearch_jax.llm.client import Client
from masksearch_jax.retrieval import interface


@dataclasses.dataclass(frozen=True)
class Rewrites:
    queries: list[str]


def rewrite(
    client: Client,
    problem: Problem,
    step: str,
    query: str,
    tried: Sequence[str],
    count: int,
    words: int,
    sampling: Sampling,
    attempts: int,
) -> list[str]:
    """Return 1 to `count` different queries of at most `words` words. tried: queries of earlier steps."""

    def fault(reply: Rewrites) -> str:
        if not 1 <= len(reply.queries) <= count:
            return f"{len(reply.queries)} queries, 1 to {count} are asked for"
        if not all(0 < len(one.split()) <= words for one in reply.queries):
            return f"a query has no word, or more than {words}"
        return ""

    before = " | ".join(tried) or "nothing"
    messages = [
        Message("system", prompts.REWRITER.format(count=count, words=words)),
        Message(
            "user",
            f"{prompts.task(problem)}\n\nStep: {step}\nQuery: {query}\nSearched before: {before}\n\n"
            f"Reply: {structured.shape(Rewrites)}",
        ),
    ]
    found = structured.ask(client, messages, Rewrites, sampling, attempts, fault).queries
    return list(dict.fromkeys(" ".join(one.split()) for one in found))


def merge(results: Sequence[Sequence[interface.Hit]], most: int) -> list[interface.Hit]:
    """Return at most `most` hits, taken in turn from each list, best first, no passage twice."""
    merged: dict[int, interface.Hit] = {}
    for rank in itertools.zip_longest(*results):
        for hit in rank:
            if hit is not None and len(merged) < most:
                merged.setdefault(hit.passage_id, hit)
    return list(merged.values())
