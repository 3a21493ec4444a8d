"""The record of one episode: every token with its mask, log-prob and policy version, written when it is born."""

import dataclasses
import enum
import io
import json
from collections.abc import Mapping

import numpy as np

_ARRAYS = {"ids": np.int32, "trainable": bool, "logprobs": np.float32, "versions": np.int32}  # one entry per token


class StopReason(enum.StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"  # closed an answer block
    EOS = "eos"  # ended its text without an answer
    TURNS = "turns"  # used up its turns
    TURN_TOKENS = "turn_tokens"  # one turn ran into its token limit on the last turn
    TOTAL_TOKENS = "total_tokens"  # ran into the limit on all tokens
    DEADLINE = "deadline"  # cancelled at the tick limit


@dataclasses.dataclass(frozen=True)
class Turn:
    """One model turn. action: 'search', 'answer' or 'invalid'. start, end: its tokens in `Trajectory.ids`.

    text: what its tokens say; of the first turn, after the thought's opening if that stands in the prompt. query: what
    was searched. hits: passage ids returned. observation: what the environment said to it, hits or a correction, as
    readable text ('' if nothing was appended).
    """

    action: str
    start: int
    end: int
    text: str
    query: str = ""
    hits: tuple[int, ...] = ()
    observation: str = ""
    error: str = ""  # why the action was invalid, or the search not executed


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One finished episode; arrays have one entry per token of prompt and response, length n.

    ids: int32 [n], as the model saw them (permuted pieces included). trainable: bool [n], True where the policy
    sampled the token. logprobs: float32 [n], the sampler's log-prob of the token, 0 where not trainable.
    versions: int32 [n], policy version that wrote the token, -1 where not trainable.
    answer: what the episode read inside the answer tags, '' unless it ended with ANSWER (text that the last token
    carries past the closing tag is no part of it). It is read once, by the rules of the episode: whoever scores, keeps
    or shows an answer takes this one and reads no turn again. group, sample: which prompt, which of its G samples.
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
        """Tokens that the policy wrote."""
        return int(self.trainable.sum())

    @property
    def searches(self) -> int:
        """Searches whose results were read; one refused on the last turn, or cancelled, has an error and is none."""
        return sum(turn.action == "search" and not turn.error for turn in self.turns)

    @property
    def final_answer(self) -> str | None:
        """`answer`, or None if the episode did not end by answering."""
        return self.answer if self.stop == StopReason.ANSWER and self.answer else None

    @property
    def well_formed(self) -> bool:
        """True if every turn was a valid action and the last one answered."""
        return self.final_answer is not None and all(turn.action != "invalid" for turn in self.turns)


def to_bytes(trajectories: Mapping[int, Trajectory]) -> bytes:
    """Numbered trajectories, exact, to be sent to other processes."""
    facts = []
    for number, one in trajectories.items():
        plain = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name not in _ARRAYS}
        turns = [dataclasses.asdict(turn) for turn in one.turns]
        facts.append(plain | {"number": number, "tokens": len(one.ids), "turns": turns})
    arrays = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(one, name) for one in trajectories.values())])
        for name, dtype in _ARRAYS.items()
    }
    file = io.BytesIO()
    np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> dict[int, Trajectory]:
    """The inverse of `to_bytes`."""
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
