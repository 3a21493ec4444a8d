"""The workflow of a published model, on a tiny fresh one: rules, paired differences, reuse; what is refused first."""

import json
from types import SimpleNamespace

import documented_metrics
import pytest

from configs import language_model as page
from masksearch_jax.evals import runner
from masksearch_jax.trainers import updates
from masksearch_jax.trainers.row_checks import check_rows
from masksearch_jax.workflows import language_model, training
from masksearch_jax.workflows.settings import validate_settings


@pytest.fixture
def short(cfg):
    cfg.policies = ("untrained", "rag", "dapo")
    cfg.warm_start = False
    cfg.dapo.update({"iterations": 1, "dynamic_sampling": False})
    cfg.evaluate.episodes.update({"ramp_1": 8, "ramp_2": 4, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    return cfg


def test_the_report_has_rules_and_paired_differences(short, workdir, capsys):
    content = language_model.run(short, workdir)
    saved = json.loads((workdir / "report.json").read_text())
    assert saved["rules"] == content["rules"] and set(saved["rules"]) == {"ramp_1", "ramp_2"}
    one = saved["rules"]["ramp_1"]
    assert one["tasks"] == 8 and 0 <= one["recall"] <= 1 and 0 < one["found"] <= 1
    # DAPO started from the model as it was: no demonstrations, no SFT.
    assert not (workdir / "sft").exists() and saved["demonstrations"] == {} and saved["sft"] is None
    pairs = saved["differences"]["ramp_1"]
    assert list(pairs) == ["rag - untrained", "dapo - untrained", "dapo - rag"]
    rows = {p: runner.read_rows(workdir / "evaluate" / p / "rows.jsonl") for p in ("rag", "dapo")}
    recalls = {p: [row.recall for row in own if row.masks == 1] for p, own in rows.items()}
    wanted = sum(b - a for a, b in zip(recalls["rag"], recalls["dapo"], strict=True)) / 8
    assert pairs["dapo - rag"]["recall"]["difference"] == pytest.approx(wanted)
    # The untrained model, with one forced search: an answer that was opened for it.
    assert {row.searches for row in rows["rag"]} <= {0, 1}
    assert not documented_metrics.missing_report_keys(saved, "Quickstart and language model")
    shown = capsys.readouterr().out
    assert "a title query finds the answer of" in shown and "differences on 2 masks" in shown
    # Again with the same line: nothing is played a second time.
    before = (workdir / "evaluate" / "dapo" / "rows.jsonl").stat().st_mtime_ns
    again = language_model.run(short, workdir)
    assert again["differences"] == content["differences"] and again["rules"] == content["rules"]
    assert (workdir / "evaluate" / "dapo" / "rows.jsonl").stat().st_mtime_ns == before


def test_what_a_policy_of_the_table_needs_is_made_and_judged_without_a_warm_start(short, workdir, monkeypatch):
    short.workflow, short.policies = "language_model", ("untrained", "few_shot")
    short.synthesize.examples.ramp_2 = 0  # which sft.curriculum draws from
    validate_settings(short)

    def asked(context):
        raise InterruptedError("demonstrations")

    monkeypatch.setattr(training, "ensure_demonstrations", asked)
    with pytest.raises(InterruptedError):
        language_model.run(short, workdir)
    short.policies = ("untrained", "sft", "dapo")
    with pytest.raises(ValueError, match=r"sft\.curriculum=.* draws from ramp_2"):
        language_model.run(short, workdir)


def test_a_missing_model_is_told_first(short, workdir, tmp_path):
    short.pretrained = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"pretrained='.*none': no model there .*launch/smollm2.sh"):
        language_model.run(short, workdir)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("argument", ["", "short", "proof", "rl", "evolve", "agents", "qwen2.5-1.5b"])
def test_every_variant_of_the_page_is_sound(argument, data, tmp_path, monkeypatch):
    monkeypatch.delenv("MASKSEARCH_DATA", raising=False)
    if data:
        monkeypatch.setenv("MASKSEARCH_DATA", str(tmp_path))
        (tmp_path / "2wiki_corpus.json.gz").touch()
    config = page.get_config(argument)
    validate_settings(config)
    devices = SimpleNamespace(shape={"data": 1, "fsdp": 4 if "qwen" in argument else 2})
    check_rows("sft", config.sft.rows, config.sft.micro_batches, devices)
    updates.batch_shape(config.dapo, config.episode.total_tokens, devices)
    assert (config.prepare.dump == "toy") is not data and bool(config.prepare.search_only) is data
    config.pretrained = "elsewhere"
    assert config.prepare.tokenizer_dir == "elsewhere"  # the data follows the model
