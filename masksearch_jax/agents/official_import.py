"""Official chatml trajectories as demonstrations (agents/masksearch_format.py reads the records).

Enters: a file, the tokenizer and the chat template of prompts. Leaves: for each record, in order, a demonstration or
the reason why there is none. We accept a record if its own judge found it right and if it could have been an episode of
ours. What the user asked becomes the prompt, instruction included, so it fits data prepared in the same form
(tasks.answer_form 'paragraph', the same instruction).
"""

from collections.abc import Iterator
from pathlib import Path

from masksearch_jax.agents import masksearch_format, transcript
from masksearch_jax.data import records
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.text import prompt
from masksearch_jax.text.chat_template import ChatTemplate
from masksearch_jax.text.tokenizer_protocol import Tokenizer


def demonstrations(
    file: Path | str, tokenizer: Tokenizer, template: ChatTemplate, limits: EpisodeLimits, accuracy: float
) -> Iterator[tuple[records.Demonstration | None, str]]:
    """Yield for each record (demonstration, '') or (None, the reason of its rejection).

    accuracy: the least `response_acc`. Reasons: 'malformed', 'not_judged', 'wrong', and those of
    transcript.demonstration. Raises FileNotFoundError."""
    for number, found in enumerate(masksearch_format.read_lines(file, masksearch_format.read_trajectory)):
        id = f"official.{number}"
        if isinstance(found, masksearch_format.RecordError):
            yield None, "malformed"
        elif found.accuracy is None or found.accuracy < accuracy:
            yield None, "not_judged" if found.accuracy is None else "wrong"
        else:
            done = found.transcript
            task = _task(id, found.text, masksearch_format.blanks(found.text, done.answer), tokenizer, template)
            yield transcript.demonstration(id, task, done, found.accuracy, limits, tokenizer)


def _task(id: str, text: str, masks: int, tokenizer: Tokenizer, template: ChatTemplate) -> records.Task:
    """Return what a demonstration needs of the task that a trajectory solved. The record holds no gold answers."""
    return records.Task(
        id=id, kind="ramp" if masks else "qa", split="train",
        prompt=template.encode(tokenizer, prompt.ramp_prompt(text).strip()), targets=[], answer_form="paragraph",
        answers=[[]] * max(masks, 1), span_kinds=[], text=text, paragraph="", title="", passage_id=-1, article_id=-1,
    )  # fmt: skip
