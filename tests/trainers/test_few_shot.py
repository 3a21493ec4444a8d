"""Worked examples in prompts: where they come from, what surrounds them, and what an episode may write beside them."""

import dataclasses
import json
import shutil

import episodes
import pytest
import tiny_published

from masksearch_jax.data import records
from masksearch_jax.evals import runner
from masksearch_jax.text import chat_template, question_examples, tags
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.workflows import evaluation, few_shot, synthesis_stage
from masksearch_jax.workflows.context import RunContext

INSTRUCTION = "Fill in each [mask]."


@pytest.fixture
def demonstrated(cfg, workdir):
    """A job whose W has demonstrations, and the settings of prompts that prepare would have written."""
    cfg.synthesize.examples.update({"ramp_1": 12, "ramp_2": 4})
    cfg.evaluate.episodes.update({"ramp_1": 3, "ramp_2": 2, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    context = RunContext(cfg, workdir)
    synthesis_stage.run(cfg, workdir, context.searcher("train"))
    made = {"instruction": INSTRUCTION, "question_instruction": "Answer.", "instruction_place": "before"}
    (workdir / "data" / "annotated" / "tasks.json").write_text(json.dumps(made))
    return context


def text_of(context, task):
    return context.tokenizer.decode(task.prompt)


def test_masked_passages_get_demonstrations_of_training_tasks(demonstrated):
    suites = evaluation.suites_of(demonstrated)
    context, extended = few_shot.extend(demonstrated, suites)
    train = {t.text for n in (1, 2) for t in synthesis_stage._tasks(context.workdir, f"ramp_{n}")}
    for name in ("ramp_1", "ramp_2"):
        for before, after in zip(suites[name], extended[name], strict=True):
            text = text_of(context, after)
            assert text.startswith(f" {INSTRUCTION}\n\nExample: ") and text.endswith(f"\n\nNow: {before.text}")
            *shown, _ = text.removeprefix(f" {INSTRUCTION}\n\n").split("\n\n")
            assert len(shown) == demonstrated.cfg.evaluate.examples == 2
            for one in shown:
                asked, turns = one.removeprefix("Example: ").split("\n")
                assert asked in train and asked.count(tags.MASK) == records.masks_of(name)
                assert turns.count("<answer>") == 1 and turns.endswith("</answer>") and "<information>" in turns
            assert dataclasses.replace(after, prompt=before.prompt) == before
    # What the examples take is added to an episode, so that as much may be written as without them.
    most = max(len(task.prompt) for tasks in suites.values() for task in tasks)
    longest = max(len(task.prompt) for tasks in extended.values() for task in tasks)
    added = context.cfg.episode.total_tokens - demonstrated.cfg.episode.total_tokens
    assert added >= longest - most and added % 64 == 0
    assert max(context.cfg.rollout.prompt_lengths) == max(demonstrated.cfg.rollout.prompt_lengths) + added
    assert demonstrated.cfg.episode.total_tokens == 160  # the other policies' episodes are as they were


def test_questions_get_the_toys_and_no_tag_of_theirs_survives(demonstrated):
    question = records.Task(
        id="q", kind="qa", split="test", prompt=[], targets=[], answer_form="whole", answers=[["x"]],
        span_kinds=["answer"], text="Who wrote <answer> x</answer>?", paragraph="", title="", passage_id=-1,
        article_id=-1, benchmark="hotpotqa",
    )  # fmt: skip
    context, extended = few_shot.extend(demonstrated, {"hotpotqa": [question]})
    words = few_shot.Wording.load(context.workdir / "data", context.tokenizer)
    plain = few_shot.prompt.placed("Now: Who wrote (answer) x(/answer)?", "Answer.", "before")
    assert words.with_examples(question, []).prompt == words.template.encode(context.tokenizer, plain)
    shown = "".join(f"Example: {one}\n\n" for one in question_examples.EXAMPLES[:2])
    whole = few_shot.prompt.placed(f"{shown}Now: Who wrote (answer) x(/answer)?", "Answer.", "before")
    assert extended["hotpotqa"][0].prompt == words.template.encode(context.tokenizer, whole)
    demonstrated.cfg.evaluate.examples = 50
    with pytest.raises(ValueError, match=r"evaluate\.examples=50: there are 4 for qa"):
        few_shot.extend(demonstrated, {"hotpotqa": [question]})


def test_an_example_shows_the_thought_that_its_prompt_opened(tmp_path):
    tokenizer = PublishedTokenizer(tiny_published.reasoner(tmp_path / "r1"))
    task = episodes.task()
    asked = chat_template.open_chat_template(tokenizer, "auto").encode(tokenizer, task.text)
    ids = [*asked, *tokenizer.encode("the river.</think><answer> Oslo</answer>")]
    one = records.Demonstration("d", task.id, 1, ids, [0] * len(ids), 0, 1.0)
    worked = few_shot._worked(dataclasses.replace(task, prompt=asked), one, tokenizer)
    assert worked == f"{task.text}\n<think>\nthe river.</think><answer> Oslo</answer>"


@pytest.mark.slow
def test_the_policy_is_evaluated_on_the_tasks_of_the_others(demonstrated):
    context = demonstrated
    params, engine = context.initial(), context.engine("all", 1.0)
    rows = {}
    for policy in ("untrained", "few_shot"):
        evaluation.run(context, policy, engine, params)
        rows[policy] = runner.read_rows(context.workdir / "evaluate" / policy / "rows.jsonl")
    assert [row.task_id for row in rows["few_shot"]] == [row.task_id for row in rows["untrained"]]
    assert len(rows["few_shot"]) == 5


def test_what_is_missing_is_said_with_the_command(demonstrated):
    suites = evaluation.suites_of(demonstrated)
    demonstrated.cfg.evaluate.examples = 13
    with pytest.raises(ValueError, match=r"evaluate\.examples=13: there are 12 for ramp"):
        few_shot.extend(demonstrated, {"ramp_1": suites["ramp_1"]})
    demonstrated.cfg.evaluate.examples = 2
    # Three masks get the examples of two, where nobody demonstrated three.
    three = dataclasses.replace(suites["ramp_2"][0], answers=[["a"], ["b"], ["c"]])
    assert few_shot.examples(demonstrated, three) == few_shot.examples(demonstrated, suites["ramp_2"][0])
    other = demonstrated.workdir / "data" / "tasks" / "train" / "ramp_1"
    shutil.rmtree(other)
    with pytest.raises(ValueError, match="was made of other tasks"):
        few_shot.extend(demonstrated, {"ramp_1": suites["ramp_1"]})
    shutil.rmtree(demonstrated.workdir / "demonstrations")
    with pytest.raises(FileNotFoundError, match=r"masksearch_jax\.synthesize"):
        few_shot.extend(demonstrated, {"ramp_1": suites["ramp_1"]})
