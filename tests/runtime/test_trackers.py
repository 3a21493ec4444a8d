"""TensorBoard and Weights & Biases show rows, histograms and texts of a stage, and continue after a kill."""

import importlib.machinery
import json
import os
import struct
import subprocess
import sys
import types

import numpy as np
import pytest

from masksearch_jax.runtime import metrics, trackers
from masksearch_jax.runtime.trackers.tensorboard_events import TensorBoard
from masksearch_jax.runtime.trackers.wandb_run import WandbRun

LENGTHS = metrics.Histogram.of(np.arange(100.0))


def section(project="", mode="offline", tensorboard=False):
    wandb = types.SimpleNamespace(project=project, name="", mode=mode)
    return types.SimpleNamespace(tensorboard=tensorboard, wandb=wandb)


def write(log: metrics.MetricsLog, start: int, last: int, sign: float = 1.0) -> None:
    """Write a stage from its checkpoint `start` to the step `last`."""
    log.cut(start)
    for step in range(start + 1, last + 1):
        log.write(step, {"loss": sign * step, "bad": float("nan")})
        log.samples(step, {"episode": f"<b>{step}</b>"}, lambda: {"lengths": LENGTHS})


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard_shows_a_resumed_stage_as_if_it_had_never_been_killed(tmp_path):
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed = metrics.MetricsLog(tmp_path, trackers=[TensorBoard(tmp_path / "tensorboard")])
    write(killed, 0, 5)
    killed.close()
    resumed = metrics.MetricsLog(tmp_path, trackers=[TensorBoard(tmp_path / "tensorboard")])
    write(resumed, 3, 4, sign=-1.0)
    resumed.close()
    found = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(1, 1), (2, 2), (3, 3), (4, -4)]
    assert "bad" not in found.Tags()["scalars"]
    (*_, last) = found.Histograms("lengths")
    assert last.step == 4 and last.histogram_value.num == 100 and sum(last.histogram_value.bucket) == 100
    # Texts that were cut stay in TensorBoard, which purges numbers alone.
    assert [one.step for one in found.Tensors("episode/text_summary")] == [1, 2, 3, 4, 5, 4]


def test_tensorboard_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match="tensorboard=True needs the package tensorboardX"):
        trackers.chosen(section(tensorboard=True), tmp_path, {})


# --- Weights & Biases ------------------------------------------------------------------------------------------------


class Refused(Exception):
    """Stands for wandb.Error."""


class StandIn(types.ModuleType):
    """A module with what WandbRun uses of wandb. It keeps the runs that were opened, and what they logged."""

    Error = Refused
    Settings = staticmethod(lambda **settings: settings)
    Histogram = staticmethod(lambda np_histogram: ("histogram", int(np_histogram[0].sum())))
    Html = staticmethod(lambda text, inject: ("html", text))

    def __init__(self, refuses=(), down=False):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.opened, self.logged, self.finished, self._refuses, self._down = [], [], 0, refuses, down

    def init(self, **how):
        if any(name in how for name in self._refuses) or (self._down and how["mode"] == "online"):
            raise Refused("no")
        self.opened.append(how)
        step = int(how["resume_from"].partition("=")[2]) + 1 if "resume_from" in how else 0
        run = types.SimpleNamespace(step=step, log=lambda values, step: self.logged.append((step, values)))
        run.finish = lambda: setattr(self, "finished", self.finished + 1)
        return run


def test_a_resumed_stage_continues_its_run_and_hides_what_was_cut(tmp_path, monkeypatch):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path / "W" / "dapo"
    for start, last in ((0, 5), (3, 4)):
        log = metrics.MetricsLog(folder, trackers=trackers.chosen(section("masks"), folder, {"seed": 0}))
        write(log, start, last)
        log.close()
    first, second = wandb.opened
    assert first["project"] == "masks" and first["name"] == "W/dapo" and first["group"] == "W"
    assert first["mode"] == "offline" and first["config"] == {"seed": 0} and first["dir"] == str(folder)
    assert second["resume_from"] == f"{first['id']}?_step=3" and "id" not in second and wandb.finished == 2
    assert json.loads((folder / "wandb.json").read_text()) == {"id": first["id"], "project": "masks"}
    row, samples = wandb.logged[-2:]
    assert row == (4, {"step": 4, "time": row[1]["time"], "loss": 4})
    assert samples == (4, {"episode": ("html", "<pre style='white-space:pre-wrap'>&lt;b&gt;4&lt;/b&gt;</pre>"),
                           "lengths": ("histogram", 100)})  # fmt: skip


def test_an_overdue_validation_belongs_to_the_step_after_the_cut(tmp_path, monkeypatch):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "wandb.json").write_text('{"id": "abc"}')
    run = WandbRun(tmp_path, "masks", "named", "offline", {})
    run.cut(3)
    run.write(3, {"eval/ramp_1/recall": 0.5})
    assert wandb.logged == [(4, {"eval/ramp_1/recall": 0.5})] and wandb.opened[0]["group"] == "named"


def test_a_server_that_does_not_cut_keeps_the_rows(tmp_path, monkeypatch, capsys):
    wandb = StandIn(refuses=["resume_from"])
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "wandb.json").write_text('{"id": "abc"}')
    WandbRun(tmp_path, "masks", "", "online", {}).cut(3)
    assert wandb.opened[0]["id"] == "abc" and wandb.opened[0]["resume"] == "allow"
    assert "the run abc keeps its rows after step 3" in capsys.readouterr().err


def test_a_server_that_is_down_at_a_restart_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    wandb = StandIn(down=True)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "wandb.json").write_text('{"id": "abc"}')
    run = WandbRun(tmp_path, "masks", "", "online", {})
    run.cut(3)
    run.write(4, {"loss": 0.5})
    (opened,) = wandb.opened
    assert opened["mode"] == "offline" and opened["resume_from"] == "abc?_step=3"
    assert wandb.logged == [(4, {"loss": 0.5})] and json.loads((tmp_path / "wandb.json").read_text())["id"] == "abc"
    err = capsys.readouterr().err
    assert f"the run abc is written to {tmp_path / 'wandb'} alone; `wandb sync` sends it later" in err
    assert err.count("Weights & Biases did not open it (no)") == 1


def test_a_known_run_that_cannot_be_opened_at_all_gets_no_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", StandIn(refuses=["id", "resume_from"]))
    (tmp_path / "wandb.json").write_text('{"id": "abc"}')
    log = metrics.MetricsLog(tmp_path, trackers=[WandbRun(tmp_path, "masks", "", "online", {})])
    write(log, 0, 3)
    log.close()
    assert [row["loss"] for row in metrics.read_rows(log.path)] == [1, 2, 3]
    assert capsys.readouterr().err.count("the run abc gets no rows until the next start") == 1


def test_a_new_run_without_a_login_or_a_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", StandIn(refuses=["id", "resume_from"]))
    with pytest.raises(ValueError, match=r"wandb.project='masks': .*wandb login.*wandb.mode=offline"):
        WandbRun(tmp_path, "masks", "", "online", {}).cut(0)


def test_wandb_is_imported_only_if_it_is_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert trackers.chosen(section(), tmp_path, {}) == []
    with pytest.raises(ValueError, match="wandb.project='masks' needs the package wandb"):
        trackers.chosen(section("masks"), tmp_path, {})


def test_the_real_package_offline(tmp_path):
    """Runs where wandb is installed (extra wandb): what a killed and a resumed start leave on disk."""
    pytest.importorskip("wandb")
    wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    folder = tmp_path / "W" / "sft"
    program = """
import sys
from pathlib import Path
from test_trackers import metrics, section, trackers, write
folder = Path(sys.argv[1])
log = metrics.MetricsLog(folder, trackers=trackers.chosen(section("masks"), folder, {"seed": 0}))
write(log, int(sys.argv[2]), int(sys.argv[3]))
log.close()
"""
    for start, last in ((0, 5), (3, 4)):
        subprocess.run(
            [sys.executable, "-c", program, str(folder), str(start), str(last)], check=True, timeout=120,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "WANDB_ERROR_REPORTING": "false"},
        )  # fmt: skip
    number = json.loads((folder / "wandb.json").read_text())["id"]
    first, second = sorted((folder / "wandb").glob(f"offline-run-*-{number}*/run-{number}.wandb"))
    kept = list(_records(first, wandb_internal_pb2.Record))
    history = [_row(one.history) for one in kept if one.WhichOneof("record_type") == "history"]
    assert [(row["_step"], row["loss"]) for row in history if "loss" in row] == [(n, n) for n in range(1, 6)]
    assert history[0]["lengths._type"] == "histogram" and history[0]["episode._type"] == "html-file"
    (run,) = [one.run for one in _records(second, wandb_internal_pb2.Record) if one.HasField("run")][:1]
    assert run.run_id == number and run.branch_point.run == number and run.branch_point.value == 3


def _row(history) -> dict:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item}


def _records(path, kind):
    """Yield the records of a .wandb file: blocks of 32 KB of records (checksum, length, type, data), after 7 bytes."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, part = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part of a record
            record = kind()
            record.ParseFromString(whole)
            yield record
            whole = b""
