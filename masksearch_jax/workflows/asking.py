"""Ask a policy one question in the terminal (masksearch_jax.ask): its turns as they end, the answer and its sources.

Colours are left out where the output is no terminal, or where NO_COLOR is set.
"""

import asyncio
import os
import secrets
import sys
import textwrap
from pathlib import Path

from masksearch_jax.retrieval import interface
from masksearch_jax.rollout.episode_text import without_steering
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.serving import search_loop
from masksearch_jax.serving.search_loop import AgentReply, AgentTurn
from masksearch_jax.serving.session import Sampling
from masksearch_jax.text import tags
from masksearch_jax.workflows import served_policy

_STEPS = 8
_WIDTH, _INDENT = 110, "        "
_LONGEST = 300  # characters of a passage that are shown
_STYLES = {"dim": "2", "bold": "1", "query": "36", "answer": "1;32", "error": "33"}


def run(question: str, folder: Path, workdir: Path | None, index: str, search_url: str, temperature: float) -> None:
    """Print how the policy of `folder` answers a question or fills the masks of a passage.

    workdir: the run whose data is searched, if another. Raises ValueError or FileNotFoundError that says what is wrong.
    """
    mesh = mesh_lib.make_mesh(1, 1, 1)
    opened = served_policy.open_policy(folder, mesh, workdir)
    settings = opened.agent(workdir, index, search_url)
    if not question.strip():
        raise ValueError("the question is empty")
    engine = opened.engine(1, _STEPS, settings.limits.total_tokens)
    page = _Page(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    sampling = Sampling(temperature, 1.0, secrets.randbits(62))
    try:
        reply = asyncio.run(
            search_loop.answer(
                engine, opened.tokenizer, settings, settings.prompt_of(question), sampling, page.show_turn
            )
        )
    finally:
        engine.close()
    page.show_end(reply)


class _Page:
    """What is printed. coloured: whether the terminal takes colours."""

    def __init__(self, coloured: bool):
        self._coloured, self._turns = coloured, 0

    def show_turn(self, told: AgentTurn) -> None:
        turn = told.turn
        self._turns += 1
        thought = turn.text.partition(tags.THINK[0])[2].partition(tags.THINK[1])[0].strip()
        head = f"turn {self._turns}"
        if thought:
            self._line(head, thought, "dim")
            head = ""
        if turn.tool:
            self._line(head, f"{turn.tool}: {turn.query}", "query")
        elif turn.action == "invalid":
            self._line(head, turn.text, "dim")
        if turn.error:
            self._line("", f"({turn.error})", "error")
        for hit in told.hits:
            self._line("  read", _shown(hit))

    def show_end(self, reply: AgentReply) -> None:
        print()
        if reply.stop == StopReason.ANSWER:
            self._line("answer", reply.answer, "answer")
        else:
            self._line("answer", f"none: the episode ended by its limit '{reply.stop.value}'", "error")
        for number, hit in enumerate(reply.sources, 1):
            self._line("sources" if number == 1 else "", f"[{number}] {_shown(hit)}")

    def _line(self, head: str, text: str, style: str = "") -> None:
        text = without_steering(" ".join(text.split()))
        lines = textwrap.wrap(text, _WIDTH - len(_INDENT)) or [""]
        body = f"\n{_INDENT}".join(self._styled(line, style) for line in lines)
        print(f"{self._styled(head.ljust(len(_INDENT)), 'bold')}{body}", flush=True)

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._coloured and style and text.strip() else text


def _shown(hit: interface.Hit) -> str:
    text = f"{hit.title}: {hit.text}" if hit.title else hit.text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} .."
