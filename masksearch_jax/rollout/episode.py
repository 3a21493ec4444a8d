"""One episode as a pure state machine: it takes a finished turn and returns what happens next.

Enters: the ids of each turn that the policy wrote (in the tokenizer's own vocabulary) and the hits of each search.
Leaves: `Search`, `Extend` (tokens that the environment adds, never trainable) or `Done`, and the list of turns.
Left out: slots, devices, threads and token permutations (rollout/scheduler.py), sampling (rollout/device_programs.py).

Rules, where the literature leaves a choice:
* A turn ends with the token that completes `</search>`, `</answer>` or the closing tag of another tool
  (text/stop_automaton.py), with an end-of-sequence token, or when its budget is used up. Text that the completing token
  carries past the tag stays in the trajectory and is no part of the action.
* An invalid turn gets a corrective observation and counts as a turn. A turn that uses up its budget without a closing
  tag is invalid. If that is the last turn, the episode ends with TURN_TOKENS; after any other invalid last turn it ends
  with TURNS.
* The last turn has to answer. A search there is recorded but not executed, and the episode ends with TURNS. Here and
  below, a call of another tool counts as a search.
* An end-of-sequence token ends the episode (EOS), whatever was written before it in that turn.
* An observation is appended whole, with room for one more token after it. If it does not fit, the episode ends with
  TOTAL_TOKENS.
* A forced search (the one-retrieval baseline) is written for the policy, with `<answer>` after its observation. The
  policy completes that answer, and the episode ends there, whether the answer is valid or not.
* A thought that the prompt has opened (text/prompt.py) belongs to the first turn's text. A forced search closes it.
"""

import dataclasses
import enum
from collections.abc import Sequence

from masksearch_jax.retrieval import interface
from masksearch_jax.rollout.trajectory import StopReason, Turn
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer

NOT_EXECUTED = "not executed"
CANCELLED = "cancelled at the deadline"
_FORCED_TURNS = 2


@dataclasses.dataclass(frozen=True)
class EpisodeLimits:
    """The limits of one episode.

    turns: model turns. turn_tokens: tokens that the policy may write in one turn. observation_tokens: tokens of one
    information block. total_tokens: tokens of prompt, turns and observations together (and the length of the cache).
    deadline_steps: engine steps from insertion into a slot to cancellation; 0 for no deadline.
    """

    turns: int = 4
    turn_tokens: int = 64
    observation_tokens: int = 128
    total_tokens: int = 512
    deadline_steps: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "deadline_steps" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(f"EpisodeLimits.{field.name} is {value!r}; it has to be an integer >= {least}")


class Ending(enum.IntEnum):
    """How a turn ended. The device programs return these values."""

    NONE = 0  # still writing
    STOP = 1  # wrote a closing tag
    EOS = 2  # wrote the end-of-sequence token
    LIMIT = 3  # used up its budget


@dataclasses.dataclass(frozen=True)
class Search:
    """A call of a tool. found: what earlier calls returned, for tools other than 'search' (interface.Query)."""

    query: str
    tool: str = "search"
    found: tuple[interface.Hit, ...] = ()


@dataclasses.dataclass(frozen=True)
class Extend:
    """Tokens of the environment that are appended before the policy continues."""

    ids: list[int]


@dataclasses.dataclass(frozen=True)
class Done:
    stop: StopReason


class Episode:
    """The state of one episode. `length` counts the tokens of the prompt and all that was written or appended since."""

    def __init__(
        self,
        prompt_length: int,
        limits: EpisodeLimits,
        tokenizer: Tokenizer,
        forced_search: str | None = None,
        opened: str = "",
        tools: tuple[str, ...] = tags.ONE_TOOL,
    ):
        """opened: the end of the prompt if it opens the first turn's thought (prompt.opened_thought), otherwise ''.

        tools: the names of the tools that the policy may call.
        """
        self.limits = limits
        self.tokenizer = tokenizer
        self.tools = tools
        self.length = prompt_length
        self.turns: list[Turn] = []
        self.answer = ""
        self._found: list[interface.Hit] = []  # what all calls returned, for tools that build on it
        self._forced = None if forced_search is None else tags.neutralise(forced_search, tools).strip()
        self._turn_limit = limits.turns if forced_search is None else _FORCED_TURNS
        self._opened: list[int] = []  # tokens of the current turn that were written for the policy
        self._prompted = opened  # text of the current turn that the prompt already holds

    @property
    def budget(self) -> int:
        """The number of tokens that the policy may write now."""
        return min(self.limits.turn_tokens, self.limits.total_tokens - self.length)

    @property
    def forced_query(self) -> str | None:
        """The query that is searched before the policy writes anything, or None."""
        return self._forced

    def end_turn(self, ids: Sequence[int], ending: Ending) -> Search | Extend | Done:
        """Record a finished turn and return what happens next. ids: the turn's tokens, the closing one included."""
        start = self.length - len(self._opened)
        text = self._read(ids)
        self._opened = []
        self.length += len(ids)
        if ending == Ending.STOP:
            action = prompt.parse_stopped_turn(text, self.tools)
        elif ending == Ending.EOS:
            action = prompt.Action("invalid", error="ended without an action")
        else:
            action = prompt.Action("invalid", error="no closing tag")
        query = action.content if action.kind in self.tools else ""
        self.turns.append(Turn(action.kind, start, self.length, text, query=query, error=action.error))
        if action.kind == "answer":
            self.answer = action.content
            return Done(StopReason.ANSWER)
        if ending == Ending.EOS:
            return Done(StopReason.EOS)
        if self.length >= self.limits.total_tokens:
            return self._refuse(StopReason.TOTAL_TOKENS)
        if len(self.turns) >= self._turn_limit:
            return self._refuse(StopReason.TURN_TOKENS if ending == Ending.LIMIT else StopReason.TURNS)
        if action.kind in self.tools:
            found = tuple(self._found) if action.kind not in tags.ONE_TOOL else ()
            return Search(action.content, action.kind, found)
        return self._extend(prompt.corrective_observation(action.error, self.tokenizer, self.limits.observation_tokens))

    def observe(self, hits: Sequence[interface.Hit]) -> Extend | Done:
        """Return the observation of the pending search, or the end of the episode if the observation does not fit."""
        ids = prompt.observation(hits, self.tokenizer, self.limits.observation_tokens, self.tools)
        found = tuple(hit.passage_id for hit in hits)
        self._found += hits
        if self._forced is None:
            self.turns[-1] = dataclasses.replace(self.turns[-1], hits=found)
            return self._extend(ids)
        return self._observe_forced(self._forced, ids, found)

    def cancel(self, ids: Sequence[int]) -> Done:
        """End the episode at its deadline. ids: the unfinished turn, empty if no turn is being written."""
        if len(ids):
            start = self.length - len(self._opened)
            text = self._read(ids)
            self.length += len(ids)
            self.turns.append(Turn("invalid", start, self.length, text, error=CANCELLED))
        elif self.turns and self.turns[-1].tool and not self.turns[-1].observation:
            self.turns[-1] = dataclasses.replace(self.turns[-1], error=CANCELLED)
        return Done(StopReason.DEADLINE)

    def _read(self, ids: Sequence[int]) -> str:
        """Return the text of the current turn, beginning with what the prompt or the environment wrote of it."""
        prompted, self._prompted = self._prompted, ""
        return prompted + self.tokenizer.decode([*self._opened, *ids])

    def _refuse(self, stop: StopReason) -> Done:
        if self.turns[-1].tool:
            self.turns[-1] = dataclasses.replace(self.turns[-1], error=NOT_EXECUTED)
        return Done(stop)

    def _observe_forced(self, query: str, block: list[int], found: tuple[int, ...]) -> Extend | Done:
        search = self.tokenizer.encode(prompt.after_opened(tags.block(tags.SEARCH, query), self._prompted))
        opened = self.tokenizer.encode(tags.ANSWER[0])
        end = self.length + len(search)
        if not self._fits(ids := [*search, *block, *opened]):
            return Done(StopReason.TOTAL_TOKENS)
        text, shown = self._read(search), self.tokenizer.decode(block)
        self.turns.append(Turn("search", self.length, end, text, query=query, hits=found, observation=shown))
        self.length += len(ids)
        self._forced, self._opened = None, opened
        return Extend(ids)

    def _extend(self, block: list[int]) -> Extend | Done:
        if not self._fits(block):
            return Done(StopReason.TOTAL_TOKENS)
        self.turns[-1] = dataclasses.replace(self.turns[-1], observation=self.tokenizer.decode(block))
        self.length += len(block)
        return Extend(block)

    def _fits(self, ids: Sequence[int]) -> bool:
        return self.length + len(ids) < self.limits.total_tokens
