"""The optimizer of a published model: safe unless it is set, recorded as it was, and kept on resume."""

import copy
import pickle

import pytest
from absl import flags
from ml_collections import config_flags
from test_configs import ROOT, load

from masksearch_jax.runtime import settings_history
from masksearch_jax.workflows.training import print_optimizer

# What the embedded line trains with, and always has.
SCRATCH = {"sft": ("muon", 0.02, 3e-3), "dapo": ("adamw", 5e-4, 5e-4)}
PUBLISHED = {"sft": ("adamw", 1e-5, 1e-5), "dapo": ("adamw", 1e-6, 1e-6)}


def optimizer(config, stage):
    chosen = config[stage].optimizer
    return chosen.kind, chosen.learning_rate, chosen.adam_learning_rate


def parsed(page, *arguments):
    """The settings that a command line gives."""
    values, line = flags.FlagValues(), ["train", f"--config={ROOT}/configs/{page}.py", *arguments]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=line)
    values(line)
    return values.config


@pytest.mark.parametrize("page", ["sft", "dapo", "stage2_sft", "stage2_dapo", "quickstart"])
def test_a_published_model_gets_safe_rates_and_a_policy_from_scratch_its_own(page):
    for stage in [stage for stage in SCRATCH if stage in load(page)]:
        assert optimizer(load(page), stage) == optimizer(parsed(page), stage) == SCRATCH[stage]
        assert optimizer(parsed(page, "--config.pretrained=FOLDER"), stage) == PUBLISHED[stage]


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_set_is_taken_even_if_it_is_what_scratch_has(order):
    given = [
        "--config.pretrained=FOLDER",
        "--config.sft.optimizer.kind=muon",
        "--config.sft.optimizer.learning_rate=3e-4",
    ]
    assert optimizer(parsed("dapo", *given[::order]), "sft") == ("muon", 3e-4, 1e-5)
    assert optimizer(parsed("dapo", "--config.dapo.optimizer.learning_rate=0.0005", given[0]), "dapo") == (
        "adamw", 5e-4, 1e-6,
    )  # fmt: skip
    config = load("sft")
    config.sft.optimizer.update({"kind": "muon", "learning_rate": 0.02})
    config.pretrained = "FOLDER"
    assert optimizer(config, "sft")[:2] == SCRATCH["sft"][:2]
    # A recipe states its own.
    recipe = load("dapo", "qwen2.5-7b")
    assert optimizer(recipe, "sft")[:2] == ("adamw", 1e-5) and optimizer(recipe, "dapo")[:2] == ("adamw", 1e-6)


def test_copies_and_records_hold_what_was_chosen():
    config = parsed("dapo", "--config.pretrained=FOLDER")
    for same in (
        config,
        config.copy_and_resolve_references(),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert {stage: optimizer(same, stage) for stage in PUBLISHED} == PUBLISHED
        found = same.to_dict()["sft"]["optimizer"]
        assert (found["kind"], found["learning_rate"], found["adam_learning_rate"]) == PUBLISHED["sft"]


def test_a_stage_keeps_its_optimizer_and_may_change_its_rate(tmp_path):
    def stage(*arguments):
        settings = parsed("sft", "--config.pretrained=FOLDER", *arguments).to_dict()
        return settings_history.Stage(tmp_path / "sft", "sft", settings, {})

    (tmp_path / "sft" / "checkpoints" / "2").mkdir(parents=True)
    stage().begin(0)
    assert stage().differences() == {}
    assert stage("--config.sft.optimizer.learning_rate=2e-5").differences() == {
        "sft.optimizer.learning_rate": (1e-5, 2e-5)
    }
    with pytest.raises(ValueError, match=r'sft\.optimizer\.kind is "adamw" there and "muon" here'):
        stage("--config.sft.optimizer.kind=muon").differences()


def test_the_choice_is_said(capsys):
    print_optimizer(parsed("dapo", "--config.pretrained=FOLDER"), "dapo")
    assert capsys.readouterr().err == "train: dapo: adamw at a learning rate of 1e-06, all weights of FOLDER\n"
    print_optimizer(parsed("dapo"), "dapo")
    assert not capsys.readouterr().err
