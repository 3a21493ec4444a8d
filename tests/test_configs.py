"""Pages of settings: they load, they are locked, and no setting stands there that nothing reads."""

import ast
import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from masksearch_jax.workflows import training

ROOT = Path(__file__).parent.parent
PAGES = {
    "dapo": ("", "dump", "qwen2.5-7b"),
    "sft": ("", "dump", "llama3.2-1b"),
    "stage2_dapo": ("", "dump", "qwen2.5-7b"),
    "stage2_sft": ("", "dump", "llama3.2-1b"),
    "prepare": ("", "wikipedia"),
    "synthesize": ("", "strong", "agents"),
    "evaluate": ("", "dump", "qwen2.5-7b"),
    "serve_search": ("",),
    "serve": ("",),
    "quickstart": ("", "proof", "strong", "dump"),
    "evolve": ("",),
    "real": ("",),
    "language_model": ("", "short", "proof", "rl", "evolve", "agents", "qwen2.5-1.5b"),
    "own_model": ("", "short"),
    "table2": ("", "corroborated"),
    "ablations": ("", "judge"),
}


def load(page: str, arg: str = "") -> ConfigDict:
    spec = importlib.util.spec_from_file_location(page, ROOT / "configs" / f"{page}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


@functools.cache
def read_names() -> set[str]:
    """Every attribute, argument, field and string of the package: what could read a setting."""
    found = set()
    for path in (ROOT / "masksearch_jax").rglob("*.py"):
        if path.stem == "setting_ranges":  # which judges settings and reads none
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_page_is_listed_here():
    pages = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"common", "recipes", "__init__"}
    assert pages == set(PAGES)


@pytest.mark.parametrize("page, arg", [(page, arg) for page, args in PAGES.items() for arg in args])
def test_every_setting_is_read(page, arg):
    names = read_names()
    # Tasks ('ramp_2'), span kinds and query styles are keys of a mapping that is read as a whole.
    mappings = ("examples", "episodes", "styles", "span_weights", "shares")
    unread = [
        leaf
        for leaf in leaves(load(page, arg))
        if leaf.split(".")[-1] not in names and not any(f"{m}." in f".{leaf}" for m in mappings)
    ]
    assert not unread


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_argument_is_refused_by_name(page):
    with pytest.raises(ValueError, match="nonsense"):
        load(page, "nonsense")


def test_unknown_and_ill_typed_settings_are_refused(tmp_path):
    def refusal(override):
        command = [sys.executable, "-m", "masksearch_jax.train", "--config=configs/dapo.py", f"--workdir={tmp_path}"]
        done = subprocess.run([*command, override], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        return done.stderr

    assert "clip_high" in refusal("--config.dapo.clip_hihg=0.3")  # and it says what was meant
    assert "iterations" in refusal("--config.dapo.iterations=many")
    assert not list(tmp_path.iterdir())  # before any work


def test_attention_that_the_devices_cannot_compute_is_refused_before_any_work(tmp_path):
    config = load("sft")
    config.model.attention = "splash"
    config.mesh.data = 1
    with pytest.raises(ValueError, match="'splash': its kernels are for TPUs and the devices are cpu"):
        training.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_seed_reaches_every_stage():
    config = load("dapo")
    config.seed = 7
    assert config.prepare.seed == 7


@pytest.mark.parametrize("arg", ["", "dump", "qwen2.5-1.5b"])
def test_stage_two_differs_from_stage_one_in_its_questions_alone(arg):
    def settings(page):
        return {name: config for name, config in load(page, arg).items() if name not in ("sft", "dapo")}

    for first, second in (("sft", "stage2_sft"), ("dapo", "stage2_dapo")):
        before, after = settings(first), settings(second)
        changed = {name for name in before if before[name] != after[name]}
        assert before.keys() == after.keys() and changed == {"synthesize", "validation_tasks"}
        stage = load(second, arg)
        drawn = [stage.sft.curriculum, *([stage.dapo.curriculum] if "dapo" in stage else [])]
        assert all(curriculum == ((None, (("qa", 1.0),)),) for curriculum in drawn)
        assert [name for name, count in stage.synthesize.examples.items() if count] == ["qa"]


def test_prepare_command_names_exactly_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load("dapo")
    plain = training.prepare_command(load("prepare"), tmp_path)
    assert not [part for part in plain if part.startswith("--config.")]
    config.prepare.entities, config.prepare.tasks.epochs = 99, 2
    changed = training.prepare_command(config.prepare, tmp_path)
    assert {"--config.entities=99", "--config.tasks.epochs=2"} <= set(changed)


def test_prepare_takes_the_section_of_a_run(tmp_path, monkeypatch):
    from masksearch_jax import prepare
    from masksearch_jax.workflows import command_summary, data_preparation

    given = []
    monkeypatch.setattr(data_preparation, "run", lambda settings, workdir: given.append((settings, workdir)))
    monkeypatch.setattr(command_summary, "prepared", lambda cfg, workdir: None)
    run = load("dapo")
    dump = tmp_path / "dump.xml"
    dump.touch()  # a file that is not there is refused
    run.seed, run.prepare.dump = 7, str(dump)
    for config in (run, load("prepare", "wikipedia")):
        prepare.main(config, tmp_path)
    assert given[0][0].dump == str(dump) and given[0][0].seed == 7
    assert given[1] == (load("prepare", "wikipedia"), tmp_path)


def test_several_processes_refuse_to_prepare_and_say_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load("dapo")
    config.distributed.processes = 2
    with pytest.raises(ValueError, match="masksearch_jax.prepare --config=configs/prepare.py"):
        training.ensure_data(config, tmp_path)
