"""The SeqIO tasks `ramp_1` .. `ramp_4`, `qa`, `tool_warmup` and one for each benchmark (`qa_hotpotqa` ..); mixtures.

The mixtures are `ramp_1_2`, `ramp_1_2_3`, `ramp_all` and `qa_benchmarks`. Enters: `<data_dir>/annotated/` (for each
split one TFRecord of annotated passages and one of questions, with tasks.json beside them) and the tokenizer there
(text.tokenizer.load), as prepare writes them. Leaves: registered tasks, so that

    from masksearch_jax.prep.tasks import registry
    registry.register("runs/prepare/data")
    dataset = seqio.get_mixture_or_task("ramp_2").get_dataset(split="train", sequence_length=None, shuffle=False)

yields 'inputs', 'targets' (token ids) and the texts they stand for. With MASKSEARCH_TASKS_DIR set, importing this
module registers the tasks of that directory, which SeqIO's own command-line tools (`--module_import`) need.

One pass over a task's 'train' split is all its epochs in order, each with masks of its own. The source yields (passage,
epoch), so repeating, sharding or shuffling cannot change a mask. Question tasks have metric functions
(prep/tasks/question_metrics.py). The tasks of benchmarks have only the split test.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path

import seqio
import tensorflow as tf

from masksearch_jax.data import records
from masksearch_jax.evals.benchmarks import BENCHMARKS
from masksearch_jax.prep.tasks import question_metrics, ramp
from masksearch_jax.prep.tasks import vocabulary as vocabularies
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject, Setting
from masksearch_jax.text import chat_template, clues, instructions, prompt, tokenizer

MASKS = (1, 2, 3, 4)  # k of the tasks ramp_<k>; the paper's 0 < k < 5
MIXTURES = {"ramp_1_2": (1, 2), "ramp_1_2_3": (1, 2, 3), "ramp_all": MASKS}
ANSWER_FORMS = ("spans", "paragraph")
TOOL_WARMUP = "tool_warmup"
BENCHMARK_PREFIX, BENCHMARK_MIXTURE, BENCHMARK_SPLIT = "qa_", "qa_benchmarks", "test"
SETTINGS = "tasks.json"
ENVIRONMENT = "MASKSEARCH_TASKS_DIR"


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The settings that, besides the passages, decide the examples; kept in annotated/tasks.json.

    seed: base seed of the mask draws. epochs: number of re-masked sets by split. answer_form: 'spans' or 'paragraph'.
    instruction, question_instruction: texts in the prompts. instruction_place: 'after' the passage or question, or
    'before' it. span_weights: weight of a span in the draw by kind, 1 for kinds not given, 0 to leave a kind unmasked.
    passages, questions: how many the source files hold, by split. chat: '' for prompts without a chat template, else
    the template of the tokenizer to use (text/chat_template.py). system: the system message of that template, '' for
    the template's own. chat_variables: values for the template. benchmarks: how many questions each holds, by name.
    tool_warmup: how many tool_warmup tasks the source files hold, by split. titles: whether the title stands before a
    masked passage.
    """

    seed: int
    epochs: dict[str, int]
    answer_form: str
    instruction: str
    question_instruction: str
    span_weights: dict[str, float]
    passages: dict[str, int]
    questions: dict[str, int]
    chat: str = ""
    system: str = ""
    benchmarks: dict[str, int] = dataclasses.field(default_factory=dict)
    tool_warmup: dict[str, int] = dataclasses.field(default_factory=dict)
    titles: bool = False
    instruction_place: str = "after"
    chat_variables: JsonObject = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.answer_form not in ANSWER_FORMS:
            raise ValueError(f"answer_form={self.answer_form!r} is none of {ANSWER_FORMS}")
        instructions.around("", self.instruction_place)
        for kind, weight in self.span_weights.items():
            if not weight >= 0:
                raise ValueError(f"span_weights[{kind!r}]={weight}: a weight is 0 or more")
        for split, epochs in self.epochs.items():
            if epochs < 1:
                raise ValueError(f"epochs[{split!r}]={epochs}: at least 1 is needed")

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SETTINGS).write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, directory: Path) -> "TaskSettings":
        """Read tasks.json; raise FileNotFoundError, naming the file, if it does not exist."""
        path = directory / SETTINGS
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; make it with `python -m masksearch_jax.prepare`")
        return cls(**read_json_object(path, "make it with `python -m masksearch_jax.prepare`"))


def passage_file(data_dir: Path | str, split: str) -> Path:
    return Path(data_dir) / "annotated" / f"{split}.tfrecord"


def question_file(data_dir: Path | str, split: str) -> Path:
    return Path(data_dir) / "annotated" / f"qa_{split}.tfrecord"


def benchmark_file(data_dir: Path | str, name: str) -> Path:
    return question_file(data_dir, f"{name}_{BENCHMARK_SPLIT}")


def tool_warmup_file(data_dir: Path | str, split: str) -> Path:
    return Path(data_dir) / "annotated" / f"{TOOL_WARMUP}_{split}.tfrecord"


def benchmark_task(name: str) -> str:
    """Return the name of the SeqIO task of a benchmark."""
    return BENCHMARK_PREFIX + name


def example(fields: Mapping[str, int | str | list[int] | list[str]]) -> bytes:
    """Return a serialised tf.train.Example: integers as int64, strings as UTF-8."""

    def feature(value: list[int] | list[str] | list[int | str]) -> tf.train.Feature:
        if value and isinstance(value[0], str):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(item).encode() for item in value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    features = {
        name: feature(value if isinstance(value, list) else [value]) for name, value in fields.items() if value != []
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


class EpochSource(seqio.TFExampleDataSource):
    """Annotated passages, repeated `epochs[split]` times, with the number of the pass as feature 'epoch'."""

    def __init__(self, files: Mapping[str, list[str]], epochs: Mapping[str, int], passages: Mapping[str, int]):
        self._epochs = dict(epochs)
        super().__init__(
            split_to_filepattern=files,
            feature_description=ramp.FEATURES,
            num_input_examples={split: passages[split] * epochs[split] for split in files},
        )

    def get_dataset(self, split: str, shuffle: bool = True, **kwargs) -> tf.data.Dataset:
        passages = super().get_dataset(split=split, shuffle=shuffle, **kwargs)

        def one_pass(epoch: tf.Tensor) -> tf.data.Dataset:
            return passages.map(lambda passage: {**passage, "epoch": epoch}, num_parallel_calls=tf.data.AUTOTUNE)

        return tf.data.Dataset.range(self._epochs[split]).flat_map(one_pass)


def register(data_dir: Path | str, **changes: Setting) -> TaskSettings:
    """Register all tasks and mixtures over `data_dir`, replacing those registered before; return their settings.

    changes: fields of TaskSettings to change from what prepare wrote, such as `seed=1` or `answer_form='paragraph'`.
    """
    data_dir = Path(data_dir)
    settings = dataclasses.replace(TaskSettings.load(data_dir / "annotated"), **changes)
    opened = tokenizer.load(data_dir)
    vocabulary = vocabularies.of(opened)
    template = chat_template.open_chat_template(opened, settings.chat, settings.system, settings.chat_variables)
    thought = prompt.opened_thought(template.encode(opened, "x"), opened)  # the same for every prompt
    # The closing tag of an answer block ends a turn, so no end-of-sequence follows it.
    features = {name: seqio.Feature(vocabulary, add_eos=False) for name in ("inputs", "targets")}
    _forget()
    files = {split: _files(passage_file(data_dir, split)) for split, count in settings.passages.items() if count}
    for masks in MASKS:
        seqio.TaskRegistry.add(
            f"ramp_{masks}",
            source=EpochSource(files, settings.epochs, settings.passages),
            preprocessors=[
                ramp.draw(settings.seed, settings.span_weights),
                ramp.to_batches,
                ramp.mask(masks),
                ramp.prepend_title(settings.titles),
                ramp.format_prompt(settings.instruction, settings.answer_form, template, settings.instruction_place),
                ramp.tokenize,
                ramp.add_control_tokens(template),
                ramp.from_batches,
                seqio.CacheDatasetPlaceholder(),
            ],
            output_features=features,
        )
    for name, members in MIXTURES.items():
        seqio.MixtureRegistry.add(name, [f"ramp_{masks}" for masks in members], default_rate=1.0)

    asked = settings.question_instruction

    def add_questions(name: str, files: dict[str, str], counts: dict[str, int], benchmark: str) -> None:
        warmup = name == TOOL_WARMUP
        seqio.TaskRegistry.add(
            name,
            source=seqio.TFExampleDataSource(files, ramp.QUESTION, num_input_examples=counts),
            preprocessors=[
                ramp.to_batches,
                ramp.format_question_prompt(
                    # A tool warm-up task may ask for several answers; the clues of an instruction are of one.
                    "" if warmup and clues.PLACEHOLDER in asked else asked,
                    template,
                    every=warmup,
                    place=settings.instruction_place,
                ),  # fmt: skip
                ramp.tokenize,
                ramp.add_control_tokens(template),
                ramp.from_batches,
                seqio.CacheDatasetPlaceholder(),
            ],
            output_features=features,
            postprocess_fn=None if warmup else functools.partial(question_metrics.postprocess, opened=thought),
            metric_fns=[] if warmup else [question_metrics.scores_of(benchmark)],
        )

    questions = {split: str(question_file(data_dir, split)) for split, count in settings.questions.items() if count}
    if questions:
        add_questions("qa", questions, settings.questions, "")
    quoted = {split: str(tool_warmup_file(data_dir, split)) for split, count in settings.tool_warmup.items() if count}
    if quoted:
        add_questions(TOOL_WARMUP, quoted, settings.tool_warmup, "")
    for name, count in settings.benchmarks.items():
        benchmark = {BENCHMARK_SPLIT: str(benchmark_file(data_dir, name))}
        add_questions(benchmark_task(name), benchmark, {BENCHMARK_SPLIT: count}, name)
    if settings.benchmarks:
        seqio.MixtureRegistry.add(BENCHMARK_MIXTURE, [*map(benchmark_task, settings.benchmarks)], default_rate=1.0)
    return settings


def _files(path: Path) -> list[str]:
    return [str(file) for file in records.files(path)]


def _forget() -> None:
    """Remove our names from SeqIO's registries, so that `register` can be called for another directory."""
    for name in (*MIXTURES, BENCHMARK_MIXTURE):
        if name in seqio.MixtureRegistry.names():
            seqio.MixtureRegistry.remove(name)
    for name in (*(f"ramp_{masks}" for masks in MASKS), "qa", TOOL_WARMUP, *map(benchmark_task, BENCHMARKS)):
        if name in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(name)


if os.environ.get(ENVIRONMENT):
    register(os.environ[ENVIRONMENT])
