"""Preparations whose spans a (scripted) language model marks, or a (scripted) checkpoint finds hard."""

import json
import re

import numpy as np
import pytest

from configs import prepare as page
from masksearch_jax.data import records
from masksearch_jax.llm.chat_types import Completion, Usage
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.workflows import data_preparation, llm_connection, perplexity_spans

_NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")


class Marker:
    """Marks names, and one that does not stand in the passage."""

    name = "marker"

    def __init__(self):
        self.asked = 0

    def complete(self, messages, sampling, timeout_s):
        self.asked += 1
        passage = messages[-1].content.partition("Passage:\n")[2].partition("\n\nReply")[0]
        marked = [{"text": text, "kind": "name"} for text in [*_NAME.findall(passage), "Nowhere Land"]]
        return Completion(json.dumps({"spans": marked}), Usage(10, 10))

    def close(self):
        pass


@pytest.mark.slow
def test_a_models_spans_become_tasks_and_a_run_that_starts_anew_pays_nothing(tmp_path, monkeypatch):
    marker = Marker()
    monkeypatch.setattr(llm_connection, "connect", lambda settings, cache: Client(marker, ClientSettings(), cache))
    config = page.get_config()
    config.update({"entities": 120, "spans": "llm", "indices": ("train",), "toy_benchmarks": 0})
    config.tasks.epochs = 1
    config.retrieval.update({"index": "exact", "dims": 256})
    config.llm.model = "marker"
    made = data_preparation.run(config, tmp_path)
    assert made["settings"]["llm"] == llm_connection.deciding(config.llm) and made["settings"]["spans"] == "llm"
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["llm"]["not_verbatim"] == marker.asked == made["passages"] and set(report["spans"]) == {"name"}
    tasks = list(records.read(tmp_path / "data/tasks/train/ramp_1/epoch_0.array_record", records.Task))
    assert tasks and all(_NAME.fullmatch(task.answers[0][0]) for task in tasks)
    assert data_preparation.run(config, tmp_path) == made  # it is there; how the model is asked may change
    config.llm.concurrency = 2
    assert data_preparation.run(config, tmp_path) == made
    config.llm.temperature = 0.5
    with pytest.raises(ValueError, match="llm.temperature was 0.0, is 0.5"):
        data_preparation.run(config, tmp_path)
    config.llm.temperature, config.overwrite, before = 0.0, True, marker.asked
    again = data_preparation.run(config, tmp_path)
    timed = {"report.json", "index/train/index.json"}  # they hold seconds
    changed = {name for name, facts in made["files"].items() if again["files"].get(name) != facts}
    assert changed <= timed and again["files"].keys() == made["files"].keys() and marker.asked == before


class Characters:
    """One token a character, of the toy's ASCII."""

    token_bytes = [bytes([i]) for i in range(128)]

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


@pytest.mark.slow
def test_what_a_checkpoint_finds_hard_becomes_tasks(tmp_path, monkeypatch):
    digits = np.array([5.0 if chr(i).isdigit() else 1.0 for i in range(128)])
    opened = []

    def of_checkpoint(folder):
        opened.append(folder)
        return lambda rows: [digits[row] for row in rows], Characters()

    monkeypatch.setattr(perplexity_spans, "of_checkpoint", of_checkpoint)
    config = page.get_config()
    config.update({"entities": 120, "spans": "perplexity", "indices": ("train",), "toy_benchmarks": 0})
    config.perplexity.update({"start": "runs/dapo/sft", "share": 0.1})  # one span of each passage
    config.tasks.epochs = 1
    config.retrieval.update({"index": "exact", "dims": 256})
    made = data_preparation.run(config, tmp_path)
    assert opened == ["runs/dapo/sft"] and made["settings"]["perplexity"] == config.perplexity.to_dict()
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    found = report["perplexity"]
    assert found["passages"] == made["passages"] and found["unaligned"] == 0
    assert found["kept"] == sum(report["spans"].values()) <= made["passages"] < found["spans"]
    tasks = list(records.read(tmp_path / "data/tasks/train/ramp_1/epoch_0.array_record", records.Task))
    dated = [task for task in tasks if re.search(r"\d", task.paragraph)]
    assert len(dated) > 30 and all(re.search(r"\d", task.answers[0][0]) for task in dated)
