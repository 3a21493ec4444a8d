"""The doctor against sick folders, pages and environments; the diagnosis of each is known beforehand."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from masksearch_jax.data import records
from masksearch_jax.prep import manifest
from masksearch_jax.runtime.mesh import make_mesh
from masksearch_jax.workflows import diagnosis, prepared_data, synthesis_stage

ROOT = Path(__file__).parent.parent.parent


def wanted(workdir: Path | None = None, cfg=None, devices: int = 0) -> diagnosis.Wanted:
    return diagnosis.Wanted(cfg, workdir, devices, 120)


def page():
    from configs import dapo

    return dapo.get_config()


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A workdir whose data has a manifest over two ArrayRecord files and a tokenizer."""
    data = tmp_path / "data"
    (data / "tasks").mkdir(parents=True)
    passages = [records.Passage(n, n, f"title {n}", f"text {n}", "train") for n in range(300)]
    records.write(data / "passages.array_record", passages)
    records.write(data / "tasks" / "epoch_0.array_record", passages[:3])
    (data / "tokenizer.model").write_bytes(b"model")
    manifest.write(data, {"settings": {}}, [path for path in data.rglob("*") if path.is_file()])
    return tmp_path


def test_healthy_data(prepared):
    (check,) = diagnosis.check_data(wanted(prepared))
    assert check.ok and check.found == "3 files, 303 records"


def test_missing_data_names_the_command_that_prepares_it(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = page()
    cfg.prepare.entities = 77
    (check,) = diagnosis.check_data(wanted(tmp_path, cfg))
    assert check.ok is False
    for part in ("masksearch_jax.prepare", "--config.entities=77", f"--workdir={tmp_path}"):
        assert part in check.next


@pytest.mark.parametrize("harm", ["missing", "short", "damaged"])
def test_harmed_data_names_the_file(prepared, harm):
    path = prepared / "data" / "passages.array_record"
    if harm == "missing":
        path.unlink()
    elif harm == "short":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.write_bytes(b"\0" * path.stat().st_size)  # as a copy that kept only the size
    (check,) = diagnosis.check_data(wanted(prepared))
    assert check.ok is False and str(path) in check.found and "prepare" in check.next


def test_several_processes_need_the_demonstrations_beforehand(tmp_path):
    cfg = page()
    assert diagnosis.check_demonstrations(wanted(tmp_path, cfg))[0].ok is None
    cfg.distributed.processes = 4
    (check,) = diagnosis.check_demonstrations(wanted(tmp_path, cfg))
    assert check.ok is False and "masksearch_jax.synthesize" in check.next
    (tmp_path / "demonstrations").mkdir()
    made = {"settings": synthesis_stage.settings(cfg), "tasks": {"ramp_1": 3}}
    (tmp_path / "demonstrations" / "manifest.json").write_text(json.dumps(made))
    assert diagnosis.check_demonstrations(wanted(tmp_path, cfg))[0].ok


def test_demonstrations_and_data_of_other_settings(prepared):
    cfg = page()
    (prepared / "demonstrations").mkdir()
    made = {"settings": synthesis_stage.settings(cfg), "tasks": {"ramp_1": 3}}
    (prepared / "demonstrations" / "manifest.json").write_text(json.dumps(made))
    data = json.loads((prepared / "data" / "manifest.json").read_text())
    data["settings"] = prepared_data.recorded(cfg.prepare)
    (prepared / "data" / "manifest.json").write_text(json.dumps(data))
    assert diagnosis.check_data(wanted(prepared, cfg))[0].ok
    cfg.episode.turn_tokens, cfg.prepare.entities = 512, 77
    (check,) = diagnosis.check_demonstrations(wanted(prepared, cfg))
    assert check.ok is False and "episode.turn_tokens is 40 there and 512 here" in check.found
    assert "masksearch_jax.synthesize with this --config" in check.next
    (check,) = diagnosis.check_data(wanted(prepared, cfg))
    assert check.ok is False and "prepare.entities is 3000 there and 77 here" in check.found
    cfg.warm_start = False
    assert diagnosis.check_demonstrations(wanted(prepared, cfg))[0].ok is None


def test_a_writable_workdir_is_left_as_it_was(tmp_path):
    (check,) = diagnosis.check_storage(wanted(tmp_path / "new"))
    assert check.ok and not (tmp_path / "new").exists()
    (tmp_path / "kept").write_text("x")
    assert diagnosis.check_storage(wanted(tmp_path))[0].ok
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_workdir_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    (check,) = diagnosis.check_storage(wanted(tmp_path / "file" / "run"))
    assert check.ok is False and "cannot make a folder" in check.found


def test_a_mount_that_renames_no_folders(tmp_path, monkeypatch):
    """As gcsfuse on a flat bucket: files rename, folders give EMFILE."""
    rename = Path.rename

    def flat(path, target):
        if path.is_dir():
            raise OSError(24, "Too many open files", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", flat)
    (check,) = diagnosis.check_storage(wanted(tmp_path))
    assert check.ok is False and "rename a folder" in check.found and "--rename-dir-limit" in check.next
    assert not list(tmp_path.iterdir())


def test_a_bucket_url_is_answered_with_the_mount(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (check,) = diagnosis.check_storage(wanted(Path("gs://bucket/runs/demo")))
    assert check.ok is False
    assert "gcsfuse" in check.next and "bucket" in check.next and "--workdir=/mnt/masksearch/runs/demo" in check.next
    assert not list(tmp_path.iterdir())  # no folder called 'gs:'


def test_versions(tmp_path, monkeypatch):
    installed = {name: importlib.metadata.version(name) for name in ("jax", "ml_collections", "orbax-checkpoint")}
    constraints = tmp_path / "constraints.txt"
    monkeypatch.setattr(diagnosis, "_CONSTRAINTS", constraints)
    constraints.write_text("# tested\n" + "".join(f"{name}=={version}\n" for name, version in installed.items()))
    (check,) = diagnosis.check_versions(wanted())
    assert check.ok, check
    constraints.write_text(f"jax==0.0.1\nml_collections=={installed['ml_collections']}\nnot-installed==1.0\n")
    (check,) = diagnosis.check_versions(wanted())
    assert check.ok is False and f"jax {installed['jax']} instead of 0.0.1" in check.found
    assert "ml_collections" not in check.found and "not-installed" not in check.found
    assert "setup.sh" in check.next


def test_a_missing_package_of_the_base(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["grain>=0.2", "no-such-thing>=1", "x; extra == 'a'"]
    )
    (check,) = diagnosis.check_versions(wanted())
    assert check.ok is False and check.found == "not installed: no-such-thing"


def test_too_few_devices_is_a_failure():
    seen = {"devices": 4, "kind": "TPU v5 lite", "platform": "tpu", "local": 4, "memory": 1 << 34, "processes": 1}
    assert diagnosis._device_check(seen, 16).ok is False
    assert diagnosis._memory_check(seen).found == "16.0 GiB a device"
    assert diagnosis._process_check(seen, 4).ok is False


def test_a_mesh_that_does_not_fit():
    cfg = page()
    cfg.mesh.fsdp = 3
    checks = {check.name: check for check in diagnosis.check_devices(wanted(cfg=cfg))}
    with pytest.raises(ValueError) as refusal:
        make_mesh(**cfg.mesh.to_dict())
    assert checks["mesh"].ok is False and checks["mesh"].found == str(refusal.value)


def test_devices_that_never_answer(monkeypatch):
    monkeypatch.setattr(diagnosis, "_LOOK_AT_DEVICES", "import time; time.sleep(60)")
    (check,) = diagnosis.check_devices(diagnosis.Wanted(None, None, 0, 1))
    assert check.ok is False and "no answer" in check.found and check.next


def test_settings_that_the_trainer_would_refuse():
    cfg = page()
    assert diagnosis.check_settings(wanted(cfg=cfg))[0].ok
    cfg.rollout.top_p = 0.9
    (check,) = diagnosis.check_settings(wanted(cfg=cfg))
    assert check.ok is False and "top_p" in check.found


def test_a_check_that_breaks_hides_no_other(monkeypatch):
    def check_scann(wanted):
        raise RuntimeError("broken")

    monkeypatch.setattr(diagnosis, "check_scann", check_scann)
    monkeypatch.setattr(diagnosis, "check_devices", lambda wanted: [])
    checks = {check.name: check for check in diagnosis.run(wanted())}
    assert checks["scann"].ok is False and "broken" in checks["scann"].found
    assert {"python", "versions", "settings", "storage", "data"} <= set(checks)


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "masksearch_jax.doctor", "--config=configs/dapo.py", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [*command, "--devices=8"], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr  # nothing is prepared here
    assert "  next: " in done.stdout and "masksearch_jax.prepare" in done.stdout
    table = done.stdout.partition("\n\n")[0].splitlines()
    lines = {name: (mark, " ".join(found)) for name, mark, *found in map(str.split, table)}
    # Eight forced CPU devices (conftest), seen by a process of its own; they tell nothing of their memory.
    assert lines["devices"][0] == "ok" and lines["devices"][1].startswith("8 x cpu")
    assert lines["memory"][0] == "-"
    assert lines["mesh"][0] == "ok" and lines["mesh"][1].startswith("data 8")
    assert [lines[name][0] for name in ("processes", "storage", "settings", "data")] == ["ok", "ok", "ok", "FAIL"]
    assert not list(tmp_path.iterdir())
