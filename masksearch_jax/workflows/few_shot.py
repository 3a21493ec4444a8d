"""Few-shot prompting, a standard baseline: an untrained policy reads worked examples before each task.

Enters: a context and the suites of an evaluation.
Leaves: the same tasks with longer prompts, and a context whose episodes are longer by the length of the examples, so
that the policy may write as much as without them. Few-shot prompting affects evaluation alone. The tasks stay as
prepare wrote them; only the prompts are made anew from the texts, with the chat template and instruction of the data.
The examples for masked passages are the teacher's demonstrations on training tasks. The examples for questions come
from the toy encyclopedia (text/question_examples.py); none is a question of a benchmark.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from masksearch_jax.data import records
from masksearch_jax.runtime import json_files
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import clues, prompt, question_examples, tags
from masksearch_jax.text.chat_template import ChatTemplate, open_chat_template
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.workflows.context import RunContext

_CANDIDATES = 100  # the shortest of this many demonstrations are taken
_LENGTHS = 64  # prompt lengths of the programs grow by a multiple of this


def extend(
    context: RunContext, suites: dict[str, list[records.Task]]
) -> tuple[RunContext, dict[str, list[records.Task]]]:
    """Return the context with longer episodes, and the suites with `cfg.evaluate.examples` examples in each prompt.

    Raises FileNotFoundError if masked passages have no demonstrations, ValueError if there are too few examples.
    """
    words = Wording.load(context.workdir / "data", context.tokenizer)
    extended, longest = {}, 0
    for name, tasks in suites.items():
        shown = examples(context, tasks[0]) if tasks else []
        extended[name] = [words.with_examples(task, shown) for task in tasks]
        added = (len(after.prompt) - len(task.prompt) for task, after in zip(tasks, extended[name], strict=True))
        longest = max(longest, *added, 0)
    longest = -(-longest // _LENGTHS) * _LENGTHS
    cfg = context.cfg.copy_and_resolve_references()
    cfg.episode.total_tokens += longest
    cfg.rollout.prompt_lengths = tuple(length + longest for length in cfg.rollout.prompt_lengths)
    cfg.rollout.context_lengths = tuple(length + longest for length in cfg.rollout.context_lengths)
    return RunContext(cfg, context.workdir), extended


def examples(context: RunContext, task: records.Task) -> list[str]:
    """Return the examples for tasks like this one. Each is a task's text, a newline, and its turns and observations."""
    count = context.cfg.evaluate.examples
    found = demonstrated(context, task.masks, count) if _is_masked(task) else question_examples.EXAMPLES[:count]
    if len(found) < count:
        raise ValueError(f"evaluate.examples={count}: there are {len(found)} for {task.kind} tasks; set it to that")
    return list(found)


def demonstrated(context: RunContext, masks: int, count: int) -> list[str]:
    """Return examples made of the shortest demonstrations with `masks` masks.

    If there are none, those with the largest smaller number of masks are used.
    Raises FileNotFoundError if there are no demonstrations of masked passages.
    """
    folder = context.workdir / "demonstrations"
    fewer = (f"ramp_{n}" for n in range(masks, 0, -1))
    name = next((name for name in fewer if (folder / f"{name}.array_record").exists()), "")
    if not name:
        raise FileNotFoundError(
            f"{folder} holds no demonstrations of masked passages, which policy='few_shot' shows as examples; write "
            "them with `python -m masksearch_jax.synthesize`"
        )
    read = records.read(folder / f"{name}.array_record", records.Demonstration)
    chosen = sorted(itertools.islice(read, _CANDIDATES), key=lambda one: len(one.ids))[:count]
    tasks = _tasks(context.workdir, name, {one.task_id for one in chosen})
    return [_worked(tasks[one.task_id], one, context.tokenizer) for one in chosen]


def _tasks(workdir: Path, name: str, wanted: set[str]) -> dict[str, records.Task]:
    """Return {id: training task} for the wanted ids of the task `name`. Raises ValueError if W/data lacks one."""
    files = sorted((workdir / "data" / "tasks" / "train" / name).glob("epoch_*.array_record"))
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
    opened = prompt.opened_thought(task.prompt, tokenizer)  # a tag at the end of the prompt that opens the first turn
    return f"{tags.neutralise_all_but_masks(task.text)}\n{opened}{tokenizer.decode(one.ids[len(task.prompt) :])}"


@dataclasses.dataclass(frozen=True)
class Wording:
    """The chat template and instructions that prepare put around the texts of tasks."""

    FILE = "annotated/tasks.json"  # of W/data

    tokenizer: Tokenizer
    template: ChatTemplate
    instruction: str
    question_instruction: str
    place: str
    chat_variables: JsonObject

    @classmethod
    def load(cls, data: Path, tokenizer: Tokenizer) -> "Wording":
        """Read the wording from W/data. Raises FileNotFoundError or ValueError that names the file."""
        return cls.of(cls.read(data), tokenizer)

    @classmethod
    def read(cls, data: Path) -> JsonObject:
        """Return what W/data says about its wording. Raises as `load`."""
        return json_files.read_json_object(data / cls.FILE, "prepare the data again", required=("instruction",))

    @classmethod
    def of(cls, made: JsonObject, tokenizer: Tokenizer) -> "Wording":
        """Return the wording that `read` has read, for the tokenizer of the prompts."""
        variables = made.get("chat_variables", {})
        return cls(
            tokenizer,
            open_chat_template(tokenizer, made.get("chat", ""), made.get("system", ""), variables),
            made["instruction"],
            made.get("question_instruction", ""),
            made.get("instruction_place", "after"),
            variables,
        )

    def prompt_of(self, text: str) -> list[int]:
        """Return the prompt ids of a masked passage, if the text has a mask, or else of a question."""
        if tags.MASK not in text:
            return self.question_prompt(tags.neutralise(text))
        body = tags.neutralise_all_but_masks(text)
        said = prompt.placed(body, clues.filled_in(self.instruction, body), self.place)
        return self.template.encode(self.tokenizer, said)

    def question_prompt(self, question: str) -> list[int]:
        """Return the prompt ids of a question whose tags are neutralised, as the SeqIO task writes them."""
        said = clues.filled_in(self.question_instruction, f"{question} {clues.asked(self.question_instruction)}")
        return self.template.encode(self.tokenizer, prompt.placed(question, said, self.place))

    def with_examples(self, task: records.Task, shown: Sequence[str]) -> records.Task:
        """Return the task with the examples before its text, under the same instruction.

        The text is data, so any of our tags in it are neutralised. The tags of the examples are kept.
        """
        masked = _is_masked(task)
        text = tags.neutralise_all_but_masks(task.text) if masked else tags.neutralise(task.text)
        body = "".join(f"Example: {one}\n\n" for one in shown) + f"Now: {text}"
        said = self.instruction if masked else self.question_instruction
        said = clues.filled_in(said, text if masked else f"{text} {clues.asked(said)}")
        said = prompt.placed(body, said, self.place)
        return dataclasses.replace(task, prompt=self.template.encode(self.tokenizer, said))


def _is_masked(task: records.Task) -> bool:
    return task.kind in ("ramp", "ramp_open")
