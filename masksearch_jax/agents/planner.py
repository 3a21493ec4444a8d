"""The planner (paper, section 2.2): says what a task asks for, and gives the first step and its query."""

import dataclasses

from masksearch_jax.agents import prompts
from masksearch_jax.agents.problem import Problem
from masksearch_jax.llm import structured
from masksearch_jax.llm.chat_types import Message, Sampling
from masksearch_jax.llm.client import Client


@dataclasses.dataclass(frozen=True)
class Plan:
    analysis: str
    step: str
    query: str

    def __post_init__(self):
        if not self.query.strip() or not self.step.strip():
            raise ValueError("step and query must not be empty")


def plan(client: Client, problem: Problem, words: int, sampling: Sampling, attempts: int) -> Plan:
    """Ask the planner for a plan. words: the longest analysis."""

    def fault(reply: Plan) -> str:
        count = len(reply.analysis.split())
        return f"analysis has {count} words, at most {words} are allowed" if count > words else ""

    messages = [
        Message("system", prompts.PLANNER.format(words=words)),
        Message("user", f"{prompts.task(problem)}\n\nReply: {structured.shape(Plan)}"),
    ]
    return structured.ask(client, messages, Plan, sampling, attempts, fault)
