"""The record of one episode: every token with its mask, log-prob and policy version, recorded when it is sampled."""

import collections
import dataclasses
import enum
import io
import json
from collections.abc import Mapping

import numpy as np

_ARRAYS = {"ids": np.int32, "trainable": bool, "logprobs": np.float32, "versions": np.int32}  # one entry per token


class StopReason(enum.StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # the policy closed an answer block
    EOS = "eos"  # the policy ended its text without an answer
    TURNS = "turns"  # all turns were used
    TURN_TOKENS = "turn_tokens"  # the last turn reached the token limit of a turn
    TOTAL_TOKENS = "total_tokens"  # the episode reached the limit on all its tokens
    DEADLINE = "deadline"  # cancelled at the limit on engine steps


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of the model.

    action: the name of the tool that was called ('search'), 'answer' or 'invalid'. start, end: the range of its tokens
    in `Trajectory.ids`. text: its tokens as text; if the prompt opens the thought of the first turn, the text of that
    turn begins with the opening. query: what was asked of the tool. hits: passage ids that it returned. observation:
    what the environment appended, hits or a correction, as readable text ('' if nothing was appended).
    """

    action: str
    start: int
    end: int
    text: str
    query: str = ""
    hits: tuple[int, ...] = ()
    observation: str = ""
    error: str = ""  # why the action was invalid, or why the tool was not called

    @property
    def tool(self) -> str:
        """The name of the tool that the turn called, '' if it called none."""
        return "" if self.action in ("answer", "invalid") else self.action


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One finished episode. Arrays have one entry per token of prompt and response, length n.

    ids: int32 [n], as the model saw them (after any token permutation). trainable: bool [n], True where the policy
    sampled the token. logprobs: float32 [n], the sampler's log-prob of the token, 0 where not trainable.
    versions: int32 [n], the policy version that sampled the token, -1 where not trainable.
    answer: the text inside the answer tags, '' unless the episode ended with ANSWER. Text that the last token carries
    past the closing tag is no part of it. The episode parses the answer once, by its own rules. Code that scores, keeps
    or shows an answer uses this field and never parses a turn again. group, sample: which prompt, and which of its G
    samples.
    """

    task_id: str
    group: int
    sample: int
    ids: np.ndarray
    trainable: np.ndarray
    logprobs: np.ndarray
    versions: np.ndarray
    prompt_length: int
    turns: tuple[Turn, ...]
    stop: StopReason
    answer: str

    @property
    def generated(self) -> int:
        """The number of tokens that the policy wrote."""
        return int(self.trainable.sum())

    @property
    def searches(self) -> int:
        """The number of searches that were executed.

        A search that was refused on the last turn, or cancelled, has an error and does not count. A search whose
        results did not fit the episode any more does count.
        """
        return self.calls.get("search", 0)

    @property
    def calls(self) -> dict[str, int]:
        """{tool: number of its calls that were executed}, counted as `searches`; tools without one are left out."""
        return dict(collections.Counter(turn.tool for turn in self.turns if turn.tool and not turn.error))

    @property
    def final_answer(self) -> str | None:
        """`answer`, or None if the episode did not end with a non-empty answer."""
        return self.answer if self.stop == StopReason.ANSWER and self.answer else None

    @property
    def well_formed(self) -> bool:
        """True if every turn was a valid action and the last one answered."""
        return self.final_answer is not None and all(turn.action != "invalid" for turn in self.turns)


def to_bytes(trajectories: Mapping[int, Trajectory]) -> bytes:
    """Return numbered trajectories as bytes that restore them exactly, to send them to other processes."""
    facts = []
    for number, one in trajectories.items():
        plain = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name not in _ARRAYS}
        turns = [dataclasses.asdict(turn) for turn in one.turns]
        facts.append(plain | {"number": number, "tokens": len(one.ids), "turns": turns})
    arrays: dict[str, np.ndarray] = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(one, name) for one in trajectories.values())])
        for name, dtype in _ARRAYS.items()
    }
    file = io.BytesIO()
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> dict[int, Trajectory]:
    """Return the trajectories that `to_bytes` wrote, by number."""
    trajectories, start = {}, 0
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in _ARRAYS}
        facts = json.loads(file["facts"].tobytes())
    for plain in facts:
        number, part = plain.pop("number"), slice(start, start + plain.pop("tokens"))
        plain["turns"] = tuple(Turn(**{**turn, "hits": tuple(turn["hits"])}) for turn in plain["turns"])
        plain["stop"] = StopReason(plain["stop"])
        trajectories[number] = Trajectory(**plain, **{name: values[part] for name, values in arrays.items()})
        start = part.stop
    return trajectories
