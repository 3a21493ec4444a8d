"""Official chatml trajectories as demonstrations (agents/official.py reads the records).

Enters: a file, the tokenizer and the chat template of prompts. Leaves: an `oracle.Outcome` for each record, in order.
Accepted is what the record's own judge found right and what an episode of ours could have been. What the user asked
becomes the prompt, instruction included, so data prepared in the same form (tasks.answer_form 'paragraph', the same
instruction) fits it.
"""

from collections.abc import Iterator
from pathlib import Path

from masksearch_jax.agents import official, oracle, transcript
from masksearch_jax.data import records
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.text import prompt
from masksearch_jax.text.chat_template import ChatTemplate
from masksearch_jax.text.interface import Tokenizer


def demonstrations(
    file: Path | str, tokenizer: Tokenizer, template: ChatTemplate, limits: EpisodeLimits, accuracy: float
) -> Iterator[oracle.Outcome]:
    """accuracy: the least `response_acc`. Rejections: 'malformed', 'not_judged', 'wrong', and those of
    transcript.demonstration. Raises FileNotFoundError."""
    for number, found in enumerate(official.read_lines(file, official.read_trajectory)):
        id = f"official.{number}"
        if isinstance(found, official.RecordError):
            yield oracle.Outcome(id, None, "malformed")
        elif found.accuracy is None or found.accuracy < accuracy:
            yield oracle.Outcome(id, None, "not_judged" if found.accuracy is None else "wrong")
        else:
            done = found.transcript
            task = _task(id, found.text, official.blanks(found.text, done.answer), tokenizer, template)
            made, reason = transcript.demonstration(id, task, done, found.accuracy, limits, tokenizer)
            yield oracle.Outcome(id, made, reason)


def _task(id: str, text: str, masks: int, tokenizer: Tokenizer, template: ChatTemplate) -> records.Task:
    """What a demonstration needs of the task that a trajectory solved; its gold answers are not in the record."""
    return records.Task(
        id=id, kind="ramp" if masks else "qa", split="train",
        prompt=template.encode(tokenizer, prompt.ramp_prompt(text).strip()), targets=[], answer_form="paragraph",
        answers=[[]] * max(masks, 1), span_kinds=[], text=text, paragraph="", title="", passage_id=-1, article_id=-1,
    )  # fmt: skip
