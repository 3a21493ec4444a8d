"""What a resumed stage has to keep, what it may change and says, and the history that its folder tells."""

import copy
import json

import pytest

from masksearch_jax.runtime.settings_history import Stage, changed

MODEL = {"layers": 2, "rope_base": 10000.0, "norm_eps": 1e-6, "dtype": "float32", "param_dtype": "float32",
         "scan_unroll": 1, "lora": None}  # fmt: skip
SETTINGS = {
    "seed": 0,
    "stage": "dapo",
    "start": "",
    "search": {"hits": 1, "exclusion": "passage", "url": "", "timeout_s": 10.0, "fallback": "local"},
    "episode": {"turns": 6, "total_tokens": 256, "deadline_steps": 200},
    "rollout": {"slots": 64},
    "distributed": {"process_id": 0},
    "sft": {"steps": 10, "rows": 4, "curriculum": ((None, (("ramp_1", 1.0),)),), "optimizer": {"kind": "muon"}},
    "dapo": {
        "iterations": 4, "group_size": 8, "temperature": 1.0, "rows": 4, "clip_high": 0.28, "dynamic_sampling": True,
        "carry_over": False, "staleness": 0, "curriculum": ((None, (("ramp_1", 1.0),)),), "eval_every": 2,
        "reward": {"answer": "recall"}, "optimizer": {"kind": "adamw", "learning_rate": 5e-4},
    },
}  # fmt: skip


def with_changes(tree, changes):
    tree = copy.deepcopy(tree)
    for name, value in changes.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner[part]
        assert last in inner, name
        inner[last] = value
    return tree


def stage(folder, changes=(), model=(), kind="dapo", base=SETTINGS):
    return Stage(folder / kind, kind, with_changes(base, dict(changes)), MODEL | dict(model))


@pytest.fixture
def trained(tmp_path):
    """A folder whose stage has a checkpoint of step 2."""
    for kind in ("sft", "dapo"):
        stage(tmp_path, kind=kind).begin(0)
        (tmp_path / kind / "checkpoints" / "2").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "kind, changes, model, said",
    [
        ("dapo", {}, {"rope_base": 500000.0}, "model.rope_base is 10000.0 there and 500000.0 here"),
        ("dapo", {}, {"norm_eps": 1e-5}, "model.norm_eps is 1e-06 there and 1e-05 here"),
        ("sft", {}, {"param_dtype": "bfloat16"}, 'model.param_dtype is "float32" there and "bfloat16" here'),
        ("dapo", {"seed": 1}, {}, "seed is 0 there and 1 here"),
        ("dapo", {"search.hits": 3}, {}, "search.hits is 1 there and 3 here"),
        ("dapo", {"episode.total_tokens": 512}, {}, "episode.total_tokens is 256 there and 512 here"),
        ("dapo", {"dapo.curriculum": ()}, {}, "dapo.curriculum is"),
        ("dapo", {"dapo.optimizer.kind": "muon"}, {}, "dapo.optimizer.kind is"),
        ("sft", {"sft.rows": 8}, {}, r"sft.rows is 4 there and 8 here \(the place in the data\)"),
    ],
)
def test_what_the_saved_state_means_is_refused_with_both_values(trained, kind, changes, model, said):
    with pytest.raises(ValueError, match=f"{kind} was trained with other settings: {said}.*take another --workdir"):
        stage(trained, changes, model, kind).differences()
    assert len((trained / kind / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"dapo.reward.answer": "f1"}, {"dapo.temperature": 0.7}, {"dapo.clip_high": 0.2}, {"dapo.group_size": 4},
        {"dapo.optimizer.learning_rate": 1e-3}, {"dapo.dynamic_sampling": False}, {"dapo.iterations": 9},
        {"dapo.eval_every": 0}, {"dapo.rows": 8}, {"search.url": "http://host", "search.timeout_s": 1.0},
        {"search.fallback": "none"}, {"rollout.slots": 8}, {"episode.deadline_steps": 0}, {"start": "runs/x"},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_the_rest_may_change_is_said_and_stands_in_the_history(trained, changes, capsys):
    stage(trained, changes).begin(2)
    said, rows = capsys.readouterr().err, (trained / "dapo" / "history.jsonl").read_text().splitlines()
    first, second = map(json.loads, rows)
    assert said.count("\n") == 1 and all(name in said for name in changes)
    assert (first["step"], first["differences"], second["step"]) == (0, {}, 2)
    assert second["differences"].keys() == changes.keys() and second["version"] and second["time"]
    assert second["settings"]["dapo"] == json.loads((trained / "dapo" / "config.json").read_text())["settings"]
    # The next start is compared with this one.
    assert not stage(trained, changes).differences() and stage(trained).differences().keys() == changes.keys()


def test_how_it_is_computed_and_other_stages_do_not_count(trained, capsys):
    other = {"sft.rows": 9, "stage": "sft", "distributed.process_id": 3}
    assert not stage(trained, other).differences()
    found = stage(trained, model={"dtype": "bfloat16", "scan_unroll": 2}).differences()
    assert found.keys() == {"model.dtype", "model.scan_unroll"}
    assert not stage(trained, model={"lora": {"rank": 4}}).differences()  # the checkpoint itself says it


def test_saved_groups_fix_their_size_and_temperature(tmp_path):
    base = with_changes(SETTINGS, {"dapo.carry_over": True})
    stage(tmp_path, base=base).begin(0)
    (tmp_path / "dapo" / "checkpoints" / "2").mkdir(parents=True)
    for name, value in (("dapo.group_size", 4), ("dapo.temperature", 0.5)):
        # Also where nothing is to be carried from now on: what is saved is there.
        with pytest.raises(ValueError, match=f"{name} is .* of the saved groups"):
            stage(tmp_path, {name: value, "dapo.carry_over": False}, base=base).differences()


def test_without_a_checkpoint_nothing_is_refused(tmp_path):
    stage(tmp_path).begin(0)
    assert stage(tmp_path, {"seed": 5}).differences() == {"seed": (0, 5)}
    stage(tmp_path, {"seed": 5}).begin(0)
    assert json.loads((tmp_path / "dapo" / "history.jsonl").read_text().splitlines()[-1])["settings"]["seed"] == 5


def test_a_row_that_a_kill_cut_and_a_stage_without_history(trained):
    history = trained / "dapo" / "history.jsonl"
    whole = history.read_text()
    history.write_text(whole + whole[:50])
    stage(trained, {"dapo.clip_high": 0.2}).begin(2)
    rows = history.read_text().splitlines()
    assert len(rows) == 3 and json.loads(rows[2])["differences"] == {"dapo.clip_high": {"there": 0.28, "here": 0.2}}
    # One that is older than the history says what stands in config.json.
    history.unlink()
    with pytest.raises(ValueError, match="rope_base"):
        stage(trained, model={"rope_base": 1.0}).differences()
    assert changed(trained / "dapo", SETTINGS) == {"dapo.clip_high": (0.2, 0.28)}
    (trained / "dapo" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"dapo/config.json is not JSON"):
        stage(trained).differences()


def test_a_setting_that_is_newer_than_the_stage_counts_as_its_default(trained):
    settings = copy.deepcopy(SETTINGS)
    settings["dapo"]["newer"] = settings["search"]["newer"] = 1
    assert not Stage(trained / "dapo", "dapo", settings, MODEL | {"token_shift": 0}).differences()


def test_a_removed_folder_is_noticed(trained):
    made = stage(trained)
    made.check_present()
    (trained / "dapo" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="dapo was removed or replaced while the run wrote to it"):
        made.check_present()


def test_a_rollback_is_a_row_of_its_own_and_settings_are_compared_past_it(trained):
    made, history = stage(trained), trained / "dapo" / "history.jsonl"
    assert made.last_rollback() is None
    made.add_rollback({"number": 1, "at": 9, "to": 2, "cursor": {"index": 40}})
    made.add_rollback({"number": 2, "at": 11, "to": 2, "cursor": {"index": 60}})
    history.write_text(history.read_text() + '{"time": "2026-01-01", "rollback": {"numb')  # cut by a kill
    assert made.last_rollback() == {"number": 2, "at": 11, "to": 2, "cursor": {"index": 60}}
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()[:3]] == [0, 2, 2]
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        stage(trained, {"seed": 1}).differences()
    made.begin(2)
    assert made.last_rollback()["number"] == 2
