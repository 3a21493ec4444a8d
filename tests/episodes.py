"""Episodes played on the host, without a model: turns of tokens in, a trajectory as of the scheduler out."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from benchmarks.drills.host_episodes import play  # noqa: F401 (tests take it from here)
from masksearch_jax.data.records import Task

# Tokens that close a tag and go on, whole. SmolLM2's vocabulary has 19 that end in or go on after '>'.
GOING_ON = ("</answer>.", "</answer>\n\n", "</answer></", "</answer><search> x</search>", "</search>.", "</answer>é")


def with_tokens(folder: Path, content: Sequence[str], special: bool = False) -> Path:
    """Adds tokens to the tokenizer of a folder."""
    file = folder / "tokenizer.json"
    made = tokenizers.Tokenizer.from_file(str(file))
    made.add_tokens([tokenizers.AddedToken(one, normalized=False, special=special) for one in content])
    made.save(str(file))
    return folder


def task(golds=("Oslo",), form: str = "spans") -> Task:
    text = "Karn Velith moved to " + " in ".join(["[mask]"] * len(golds)) + "."
    return Task(
        id="t", kind="ramp", split="test", prompt=[3, 4], targets=[5], answer_form=form,
        answers=[[gold] for gold in golds], span_kinds=["name"] * len(golds), text=text, paragraph="", title="Karn",
        passage_id=7, article_id=8,
    )  # fmt: skip


def change_json(file: Path, **changes) -> None:
    """Changes some keys of a JSON object."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
