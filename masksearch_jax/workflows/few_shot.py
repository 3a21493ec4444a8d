"""Few-shot prompting: a policy that nobody trained reads worked examples before each task, the field's baseline.

Enters: a job and the suites of an evaluation. Leaves: the same tasks with longer prompts, and a job whose episodes are
longer by what these take, so that both policies may write as much. It is a matter of evaluation alone: the tasks stay
as prepare wrote them, and only their prompts are made anew, from their texts, with the chat template and the
instruction of the data. The examples of masked passages are the teacher's demonstrations on training tasks. Those of
questions are of the toy encyclopedia (text/question_examples.py): no question of a benchmark is among them.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masksearch_jax import job as job_lib
from masksearch_jax.data import records
from masksearch_jax.data.curriculum import level_name
from masksearch_jax.runtime import json_files
from masksearch_jax.text import clues, prompt, question_examples, tags
from masksearch_jax.text.chat_template import ChatTemplate, open_chat_template
from masksearch_jax.text.interface import Tokenizer

_CANDIDATES = 100  # demonstrations among which the shortest are taken
_LENGTHS = 64  # a program's length of prompt is a multiple of


def extend(
    job: job_lib.Job, suites: dict[str, list[records.Task]]
) -> tuple[job_lib.Job, dict[str, list[records.Task]]]:
    """Return the job with longer episodes, and the suites with `cfg.evaluate.examples` examples in each prompt.

    Raises FileNotFoundError for masked passages without demonstrations, and ValueError for more examples than there
    are.
    """
    words = Wording.load(job.workdir / "data", job.tokenizer)
    extended, longest = {}, 0
    for name, tasks in suites.items():
        shown = examples(job, tasks[0]) if tasks else []
        extended[name] = [words.with_examples(task, shown) for task in tasks]
        added = (len(after.prompt) - len(task.prompt) for task, after in zip(tasks, extended[name], strict=True))
        longest = max(longest, *added, 0)
    longest = -(-longest // _LENGTHS) * _LENGTHS
    cfg = job.cfg.copy_and_resolve_references()
    cfg.episode.total_tokens += longest
    cfg.rollout.prompt_lengths = tuple(length + longest for length in cfg.rollout.prompt_lengths)
    cfg.rollout.context_lengths = tuple(length + longest for length in cfg.rollout.context_lengths)
    return job_lib.Job(cfg, job.workdir), extended


def examples(job: job_lib.Job, task: records.Task) -> list[str]:
    """The examples that tasks like this one get: a task's text, a line end, and the turns and observations of it."""
    count = job.cfg.evaluate.examples
    found = demonstrated(job, task.masks, count) if _is_masked(task) else question_examples.EXAMPLES[:count]
    if len(found) < count:
        raise ValueError(f"evaluate.examples={count}: there are {len(found)} for {task.kind} tasks; set it to that")
    return list(found)


def demonstrated(job: job_lib.Job, masks: int, count: int) -> list[str]:
    """The shortest demonstrations of as many masks, or of the largest number below that has some.

    Raises FileNotFoundError where there are no demonstrations of masked passages.
    """
    folder = job.workdir / "demonstrations"
    level = next((n for n in range(masks, 0, -1) if (folder / f"{level_name(n)}.array_record").exists()), 0)
    if not level:
        raise FileNotFoundError(
            f"{folder} holds no demonstrations of masked passages, which policy='few_shot' shows as examples; write "
            "them with `python -m masksearch_jax.synthesize`"
        )
    read = records.read(folder / f"{level_name(level)}.array_record", records.Demonstration)
    chosen = sorted(itertools.islice(read, _CANDIDATES), key=lambda one: len(one.ids))[:count]
    tasks = _tasks(job.workdir, level, {one.task_id for one in chosen})
    return [_worked(tasks[one.task_id], one, job.tokenizer) for one in chosen]


def _tasks(workdir: Path, level: int, wanted: set[str]) -> dict[str, records.Task]:
    """The training tasks of these ids."""
    files = sorted((workdir / "data" / "tasks" / "train" / level_name(level)).glob("epoch_*.array_record"))
    every = itertools.chain.from_iterable(records.read(path, records.Task) for path in files)
    found: dict[str, records.Task] = {}
    for task in every:
        if task.id in wanted:
            found[task.id] = task
        if len(found) == len(wanted):
            return found
    raise ValueError(
        f"{workdir / 'demonstrations'} was made of other tasks than {workdir / 'data'} holds; remove it and write it "
        "again with `python -m masksearch_jax.synthesize`"
    )


def _worked(task: records.Task, one: records.Demonstration, tokenizer: Tokenizer) -> str:
    opened = prompt.opened_thought(task.prompt, tokenizer)  # of the first turn, which the ids do not repeat
    return f"{tags.neutralise_all_but_masks(task.text)}\n{opened}{tokenizer.decode(one.ids[len(task.prompt) :])}"


@dataclasses.dataclass(frozen=True)
class Wording:
    """What prepare put around the texts of tasks."""

    tokenizer: Tokenizer
    template: ChatTemplate
    instruction: str
    question_instruction: str
    place: str

    @classmethod
    def load(cls, data: Path, tokenizer: Tokenizer) -> "Wording":
        """Read it from W/data. Raises FileNotFoundError or ValueError that name the file."""
        path = data / "annotated" / "tasks.json"
        made: dict[str, Any] = json_files.read_json_object(path, "prepare the data again", required=("instruction",))
        return cls(
            tokenizer,
            open_chat_template(
                tokenizer, made.get("chat", ""), made.get("system", ""), made.get("chat_variables", {})
            ),
            made["instruction"],
            made.get("question_instruction", ""),
            made.get("instruction_place", "after"),
        )

    def with_examples(self, task: records.Task, shown: Sequence[str]) -> records.Task:
        """Return the task with the examples before its text, under the same instruction. Its text is data: what it
        spells of our tags is neutralised, those of the examples are not."""
        masked = _is_masked(task)
        text = tags.neutralise_all_but_masks(task.text) if masked else tags.neutralise(task.text)
        body = "".join(f"Example: {one}\n\n" for one in shown) + f"Now: {text}"
        said = self.instruction if masked else self.question_instruction
        said = clues.filled_in(said, text if masked else f"{text} {clues.asked(said)}")
        said = prompt.placed(body, said, self.place)
        return dataclasses.replace(task, prompt=self.template.encode(self.tokenizer, said))


def _is_masked(task: records.Task) -> bool:
    return task.kind in ("ramp", "open")
