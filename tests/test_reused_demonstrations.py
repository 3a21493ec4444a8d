"""Demonstrations that are there: refused for what decides what was demonstrated, and for nothing else."""

import json
import types

import pytest

from configs import dapo
from masksearch_jax.workflows import synthesis_stage, training


@pytest.fixture
def made(tmp_path):
    """(job, its page): demonstrations as the page asks for, by their manifest alone."""
    cfg = dapo.get_config()
    folder = tmp_path / "demonstrations"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"settings": synthesis_stage.settings(cfg), "tasks": {}}))
    return types.SimpleNamespace(cfg=cfg, workdir=tmp_path), cfg


@pytest.mark.parametrize(
    "name, value",
    [
        ("search.url", "http://host:8000/retrieve"), ("search.timeout_s", 1.0), ("search.deadline_s", 5.0),
        ("search.retries", 9), ("search.failures", 1), ("search.cooldown_s", 1.0), ("search.ready_s", 1.0),
        ("search.fallback", "empty"), ("episode.deadline_steps", 0), ("synthesize.probe_tasks", 0),
        ("synthesize.agents.workers", 2), ("llm.url", "http://host"), ("llm.timeout_s", 1.0),
    ],
)  # fmt: skip
def test_who_answers_and_how_patiently_he_is_asked_does_not_count(made, name, value):
    job, cfg = made
    cfg.update_from_flattened_dict({name: value})
    training.ensure_demonstrations(job)


@pytest.mark.parametrize(
    "name, value",
    [
        ("search.hits", 3), ("search.exclusion", "article"), ("episode.total_tokens", 512), ("seed", 1),
        ("synthesize.retry", 0.25), ("synthesize.examples.ramp_1", 10),
    ],
)  # fmt: skip
def test_what_was_demonstrated_is_refused_with_both_values(made, name, value):
    job, cfg = made
    cfg.update_from_flattened_dict({name: value})
    with pytest.raises(ValueError, match=rf"made with other settings: {name} is .* there and {value!r} here"):
        training.ensure_demonstrations(job)


def test_a_removed_folder_is_not_called_finished(tmp_path):
    with pytest.raises(FileNotFoundError, match="demonstrations was removed or replaced"):
        synthesis_stage._finish({"tasks": {"ramp_1": {"written": 3}, "ramp_2": {}}}, tmp_path / "demonstrations", 0.0)
    assert not (tmp_path / "demonstrations").exists()
