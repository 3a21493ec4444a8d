"""Solves one task from plan to answer: the planner, then rewriter, search and observer until there is an answer.

Enters: a `Problem` (no gold answer), a client, a search tool. Leaves: an `Attempt`. The rewriter's queries are searched
together, and the observer reads their merged results; of each passage it sees the part that an episode would show. For
each step the transcript holds only a few of these queries, chosen greedily, whose own observations show every passage
that the observer relied on: the policy searches with one query per turn, and reads the hits of that query alone.
Left out: judging (trajectory_judge.py) and tokens (transcript.py).
"""

import dataclasses
from collections.abc import Sequence

from masksearch_jax.agents import observer, planner, rewriter
from masksearch_jax.agents.problem import Problem
from masksearch_jax.agents.transcript import Search, Transcript, plain, visible
from masksearch_jax.llm.chat_types import RequestError, Sampling
from masksearch_jax.llm.client import Client
from masksearch_jax.llm.structured import ReplyError
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.text.tokenizer_protocol import Tokenizer


@dataclasses.dataclass(frozen=True)
class AgentsConfig:
    """Settings of the agents.

    rewrites: most queries of a step. passages: most passages that the observer reads in a step. query_words,
    thought_words: the longest query, and the longest analysis or thought. attempts: most replies asked for until one
    has the right form. hits: passages for one query, as in a rollout. limits: those of the episode that a demonstration
    has to be."""

    rewrites: int
    passages: int
    query_words: int
    thought_words: int
    attempts: int
    hits: int
    limits: EpisodeLimits
    sampling: Sampling

    def __post_init__(self):
        for name in ("rewrites", "passages", "query_words", "thought_words", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"synthesize.agents.{name}={getattr(self, name)} has to be >= 1")
        if self.limits.turns < 2:
            raise ValueError(f"episode.turns={self.limits.turns}: the agents search at least once; 2 are needed")


@dataclasses.dataclass(frozen=True)
class Step:
    """What happened in one step, to be read by people. found: titles of the passages that the observer read."""

    step: str
    query: str
    queries: list[str]
    found: list[str]
    verdict: str
    thought: str


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The result of solving one task.

    given: the answers, [] if there is none. failure: why there is none, 'no_answer' (out of turns), 'bad_reply' or
    'refused', else ''. detail: what exactly failed."""

    steps: list[Step]
    given: list[str]
    transcript: Transcript | None
    failure: str = ""
    detail: str = ""


def solve(
    client: Client, problem: Problem, searcher: interface.Searcher, tokenizer: Tokenizer, cfg: AgentsConfig
) -> Attempt:
    """Solve a task. Raises what Client.complete raises, except for a refused request, and what the searcher raises."""
    steps: list[Step] = []
    try:
        return _solve(client, problem, searcher, tokenizer, cfg, steps)
    except ReplyError as error:
        return Attempt(steps, [], None, "bad_reply", str(error))
    except RequestError as error:
        return Attempt(steps, [], None, "refused", str(error))


def _solve(client, problem, searcher, tokenizer, cfg, steps: list[Step]) -> Attempt:
    ask = (cfg.sampling, cfg.attempts)
    plan = planner.plan(client, problem, cfg.thought_words, *ask)
    thought, step, query = plan.analysis, plan.step, plan.query
    written: list[Search] = []
    notes: dict[int, tuple[str, str]] = {}
    while True:
        # ---- search with several queries and read their results as one list ----
        tried = [one for before in steps for one in before.queries]
        queries = rewriter.rewrite(client, problem, step, query, tried, cfg.rewrites, cfg.query_words, *ask)
        queries = list(dict.fromkeys(filter(None, map(plain, queries)))) or [plain(query)]
        asked = [interface.Query(one, problem.passage_id, problem.article_id) for one in queries]
        results = searcher.search(asked, cfg.hits)
        seen = [visible(hits, tokenizer, cfg.limits.observation_tokens) for hits in results]
        merged = _readable(rewriter.merge(results, cfg.passages), results, seen)
        # ---- decide ----
        last = len(written) + 1 >= cfg.limits.turns - 1
        done = [(one.step, one.queries, one.thought) for one in steps] + [(step, queries, "")]
        shown = [(hit.title, text) for hit, text in merged]
        verdict = observer.observe(client, problem, done, shown, list(notes.values()), last, cfg.thought_words, *ask)
        useful = {merged[number - 1][0].passage_id: merged[number - 1] for number in verdict.useful}
        notes |= {id: (hit.title, text) for id, (hit, text) in useful.items()}
        steps.append(Step(step, query, queries, [t for t, _ in shown], verdict.verdict, verdict.thought))
        # ---- write the turns ----
        wanted = {id: text for id, (_, text) in useful.items()}
        for number, place in enumerate(cover(wanted, results, seen)):
            said = f"{thought} {step}" if number == 0 else step
            written.append(Search(said, queries[place], tuple(results[place])))
        if verdict.verdict == "answer":
            answer = problem.written(verdict.answers)
            return Attempt(steps, verdict.answers, Transcript(tuple(written), verdict.thought, answer))
        if last or len(written) >= cfg.limits.turns - 1:
            return Attempt(steps, [], None, "no_answer", f"no answer after {len(written)} searches")
        thought, step, query = verdict.thought, verdict.step, verdict.query


def _readable(merged, results, seen) -> list[tuple[interface.Hit, str]]:
    """Return each merged hit with the longest part of it that any query's observation shows.

    Hits that no observation shows are left out."""
    longest: dict[int, str] = {}
    for hits, texts in zip(results, seen, strict=True):
        for hit, text in zip(hits, texts, strict=True):
            longest[hit.passage_id] = max(longest.get(hit.passage_id, ""), text, key=len)
    return [(hit, longest[hit.passage_id]) for hit in merged if longest[hit.passage_id]]


def cover(
    wanted: dict[int, str], results: Sequence[Sequence[interface.Hit]], seen: Sequence[Sequence[str]]
) -> list[int]:
    """Return the numbers (from 0) of queries whose observations together show every wanted passage, text as wanted.

    Each next query is the one that shows the most of what is still missing. At least one query is returned."""
    shows = [
        {hit.passage_id for hit, text in zip(hits, texts, strict=True) if wanted.get(hit.passage_id) == text}
        for hits, texts in zip(results, seen, strict=True)
    ]
    left, chosen = set(wanted), []
    while left:
        best = max(range(len(shows)), key=lambda place: (len(shows[place] & left), -place))
        chosen.append(best)
        left -= shows[best]
    return chosen or [0]
