"""A damaged, missing or locked file ends each command with one sentence that names it, exit status 1, no traceback."""

import errno
import json
import shutil
import sys

import pytest
from absl import flags

from masksearch_jax.data import records
from masksearch_jax.llm.endpoint import Endpoint
from masksearch_jax.runtime import cli, metrics
from masksearch_jax.workflows import (
    conversion,
    diagnosis,
    evaluation,
    reporting,
    synthesis_stage,
    training,
)
from masksearch_jax.workflows.context import RunContext

GARBAGE = {"cut": b'{"settings": {"a', "twice": b'{"a": 1, "a": 2}', "list": b"[1]", "bytes": b"\xff\xfe\x00"}


def call(command, workdir, cfg, tmp_path):
    """Runs a command in this process, as its command line would."""
    if command == "train":
        training.ensure_demonstrations(RunContext(cfg, workdir))
        training.train_sft(RunContext(cfg, workdir))
    elif command == "synthesize":
        synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))
    elif command == "evaluate":
        cfg.evaluate.episodes.update(dict.fromkeys(cfg.evaluate.episodes, 0) | {"ramp_1": 5})
        evaluation.suites_of(RunContext(cfg, workdir))
        RunContext(cfg, workdir).searcher("all")
    elif command == "view":
        reporting.write(workdir)
    elif command == "serve_search":
        from configs import serve_search as page
        from masksearch_jax.retrieval.service import endpoints, wire

        settings = endpoints.ServiceSettings(
            ("all",), 3, wire.Limits(**page.get_config().limits.to_dict()), 1, 8, 1.0, 1 << 15
        )
        endpoints.Service(workdir, settings, dict)._open()
    elif command == "convert":
        conversion.to_published(workdir / "dapo", tmp_path / "out")


def ended(name, work):
    """What a command that ends so prints, by the rule of `entry.start`."""
    with pytest.raises((ValueError, OSError)) as raised:
        work()
    said = cli.sentence(raised.value)
    assert "\n" not in said.strip() and "Traceback" not in said
    return said


DAMAGES = [
    ("train", "demonstrations/manifest.json", "makes|made"),
    ("synthesize", "data/tasks/train/ramp_1/epoch_0.array_record", "masksearch_jax.prepare"),
    ("train", "data/augment.json", "prepare"),
    ("evaluate", "data/tasks/test/ramp_1/epoch_0.array_record", "masksearch_jax.prepare"),
    ("evaluate", "data/index/all/index.json", "masksearch_jax.prepare"),
    ("view", "dapo/metrics.jsonl", "start the stage again"),
    ("view", "dapo/config.json", "run its stage again"),
    ("serve_search", "data/index/all/index.json", "masksearch_jax.prepare"),
    ("serve_search", "data/passages.array_record", "masksearch_jax.prepare"),
    ("convert", "dapo/config.json", "copy the folder"),
]


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("command, file, advice", DAMAGES)
def test_a_damaged_file_is_named_with_the_next_step(cfg, workdir, tmp_path, command, file, advice, kind):
    if file.endswith(("array_record", "jsonl")) and kind not in ("cut", "bytes"):
        pytest.skip("no JSON object")
    if file.startswith("dapo"):
        stage = workdir / "dapo"
        stage.mkdir()
        (stage / "config.json").write_text(json.dumps({"settings": {}, "model": {}}))
        (stage / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "reward": 0.5}\n')
    target = workdir / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(GARBAGE[kind] + b"\n")
    if file == "data/augment.json":
        from masksearch_jax.data import token_permutation

        said = ended(command, lambda: token_permutation.load(target, 400))
    else:
        said = ended(command, lambda: call(command, workdir, cfg, tmp_path))
    assert target.name in said and str(target.parent) in said
    assert any(part in said for part in advice.split("|")), said


def test_the_record_of_a_damaged_file_is_told(workdir):
    path = workdir / "data" / "tasks" / "train" / "ramp_1" / "epoch_0.array_record"
    records.write(path, [records.Passage(1, 1, "a", "b", "train")])
    with pytest.raises(ValueError, match="epoch_0.array_record: record 0 cannot be read .*masksearch_jax.prepare"):
        next(records.read(path, records.Task))
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    for read in (lambda: list(records.read(path, records.Task)), lambda: records.RandomAccess(path, records.Task)):
        with pytest.raises(ValueError, match="epoch_0.array_record: its end, which says where the records are"):
            read()


def test_garbage_in_a_log_is_cut_on_resume_and_named_when_read(tmp_path):
    log = metrics.MetricsLog(tmp_path)
    log.write(1, {"a": 1.0})
    log.close()
    with log.path.open("ab") as file:
        file.write(b'\xff\xfe\n{"step": "x"}\n[1]\n{"step": 2, "b": 1}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 2: is not UTF-8"):
        metrics.read_rows(log.path)
    assert log.cut(2) == 3 and [row["step"] for row in metrics.read_rows(log.path)] == [1, 2]


def test_doctor_names_a_damaged_manifest(workdir, cfg):
    wanted = diagnosis.Wanted(cfg, workdir, 0, 10)
    for folder, check in (("data", diagnosis.check_data), ("demonstrations", diagnosis.check_demonstrations)):
        (workdir / folder).mkdir(exist_ok=True)
        (workdir / folder / "manifest.json").write_bytes(b'{"files": ')
        (found,) = check(wanted)
        assert found.ok is False and f"{folder}/manifest.json" in found.found and found.next


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.EIO])
def test_any_error_of_the_file_system_is_a_sentence(number):
    said = cli.sentence(OSError(number, "why", "/W/data/x"))
    assert said.startswith("/W/data/x: why (") and "; " in said


@pytest.mark.parametrize("number, advises", [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.ECONNREFUSED, False)])
def test_a_full_disk_is_told_where_no_file_is_named(number, advises):
    """As a write into an open file raises it."""
    said = cli.sentence(OSError(number, "why"))
    assert "why" in said and ("free some of the disk" in said) == advises


def test_a_full_disk_under_a_checkpoint_is_told_too():
    said = cli.sentence(ValueError('RESOURCE_EXHAUSTED: Error writing "x": No space left on device [os_error_code=28]'))
    assert "RESOURCE_EXHAUSTED" in said and "free some of the disk" in said


@pytest.mark.parametrize("make", ["file in its place", "folder in its place"])
def test_a_workdir_that_cannot_be_written_ends_an_entry_with_a_sentence(tmp_path, make, monkeypatch):
    """Through `entry.start`'s own handler."""
    target = tmp_path / "W"
    target.write_text("") if make == "file in its place" else (target / "file").mkdir(parents=True)

    def work(cfg, workdir):
        (workdir / "file").write_text("x")

    parsed = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", parsed)
    monkeypatch.setattr(cli.flags, "FLAGS", parsed)
    define = cli.config_flags.DEFINE_config_file
    monkeypatch.setattr(cli.config_flags, "DEFINE_config_file", lambda *a, **k: define(*a, flag_values=parsed, **k))
    string = cli.flags.DEFINE_string
    monkeypatch.setattr(cli.flags, "DEFINE_string", lambda *a: string(*a, flag_values=parsed))

    def run(main, flags_parser):
        main(flags_parser(["prog", f"--workdir={target}"]))

    monkeypatch.setattr(cli.app, "run", run)
    monkeypatch.setattr(cli.config_flags, "get_config_filename", lambda flag: "configs/prepare.py")
    monkeypatch.setattr(sys, "argv", ["prog"])
    with pytest.raises(SystemExit) as raised:
        cli.run_config(work, "configs/prepare.py")
    assert str(target) in str(raised.value.code) and str(raised.value.code).startswith("prepare: ")


def test_a_bad_variant_of_a_config_is_one_sentence():
    """ml_collections raises it while flags are parsed, where `cli.run` catches ValueError."""
    from configs import dapo

    with pytest.raises(ValueError, match="configs/dapo.py takes one of dump, .*got 'nonsense'"):
        dapo.get_config("nonsense")


def test_a_pasted_key_is_never_printed(monkeypatch):
    monkeypatch.delenv("sk-secret", raising=False)
    with pytest.raises(ValueError, match="llm.key_variable names no environment variable") as raised:
        Endpoint("http://127.0.0.1:1/v1", "m", "sk-secret")
    assert "sk-secret" not in str(raised.value)


def test_a_manifest_is_whole_or_not_there(cfg, workdir, monkeypatch):
    """Killed while the manifest of the demonstrations is written, the folder counts as unfinished."""
    from masksearch_jax.runtime import json_files

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(json_files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        synthesis_stage._finish({"tasks": {}}, workdir / "demonstrations", 0.0)
    assert not (workdir / "demonstrations" / "manifest.json").exists()
    shutil.rmtree(workdir / "demonstrations")


@pytest.mark.parametrize("kind", GARBAGE)
def test_prepare_names_a_damaged_manifest_and_a_bad_question_file_before_any_work(tmp_path, kind):
    """In the process of prepare's own settings, without TensorFlow: the manifest and the questions come first."""
    from configs import prepare as page
    from masksearch_jax.workflows import data_preparation

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_bytes(GARBAGE[kind])
    said = ended("prepare", lambda: data_preparation.run(page.get_config(), tmp_path))
    assert "data/manifest.json" in said and "masksearch_jax.prepare" in said
