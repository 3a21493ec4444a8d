"""A preparation whose spans a (scripted) language model marks."""

import json
import re

import pytest

from configs import prepare as page
from masksearch_jax import language_model, prepare
from masksearch_jax.data import records
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.llm.interface import Completion, Usage

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
    monkeypatch.setattr(language_model, "connect", lambda settings, cache: Client(marker, ClientSettings(), cache))
    config = page.get_config()
    config.update({"entities": 120, "spans": "llm", "indices": ("train",)})
    config.tasks.epochs = 1
    config.retrieval.update({"index": "exact", "dims": 256})
    config.llm.model = "marker"
    made = prepare.run(config, tmp_path)
    assert made["settings"]["llm"] == language_model.deciding(config.llm) and made["settings"]["spans"] == "llm"
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["llm"]["not_verbatim"] == marker.asked == made["passages"] and set(report["spans"]) == {"name"}
    tasks = list(records.read(tmp_path / "data/tasks/train/ramp_1/epoch_0.array_record", records.Task))
    assert tasks and all(_NAME.fullmatch(task.answers[0][0]) for task in tasks)
    assert prepare.run(config, tmp_path) == made  # it is there; how the model is asked may change
    config.llm.concurrency = 2
    assert prepare.run(config, tmp_path) == made
    config.llm.temperature = 0.5
    with pytest.raises(ValueError, match="llm.temperature was 0.0, is 0.5"):
        prepare.run(config, tmp_path)
    config.llm.temperature, config.overwrite, before = 0.0, True, marker.asked
    again = prepare.run(config, tmp_path)
    timed = {"report.json", "index/train/index.json"}  # they hold seconds
    changed = {name for name, facts in made["files"].items() if again["files"].get(name) != facts}
    assert changed <= timed and again["files"].keys() == made["files"].keys() and marker.asked == before
