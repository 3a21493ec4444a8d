"""Every command in the documentation parses, or says why it is not run.

Checked of a command: its module or script exists, its flags are those of the module, its config and variant exist, each
override names a setting and has a value that the setting may have, and the settings work together. Nothing is run.
"""

import ast
import functools
import re
import runpy
import shlex
from pathlib import Path

import doc_pages
import pytest
from ml_collections import ConfigDict

from masksearch_jax.workflows import setting_ranges
from masksearch_jax.workflows.settings import validate_settings

ROOT = doc_pages.ROOT
PAGES = doc_pages.pages()
LANGUAGES = {"bash", "python", "text", "diff"}
# Kind of settings, by command; else 'train'.
KINDS = {"prepare": "prepare", "serve_search": "serve_search", "serve": "serve"}
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:python\d?(?= -m| launch/)|bash(?= launch/)) ")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.\.")


def commands(page: Path) -> list[tuple[str, str]]:
    """Return (place, command) of the shell blocks without a reason, and of the code spans that are commands."""
    found = []
    for block in doc_pages.blocks(page):
        if block.language == "bash" and not block.reason:
            lines = block.text.replace("\\\n", " ").splitlines()
            found += [(str(block), line.strip()) for line in lines if line.strip() and not line.strip().startswith("#")]
    found += [(page.name, span) for span in doc_pages.code_spans(page) if _COMMAND.match(span)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MASKSEARCH_DATA", raising=False)
    faults = []
    for place, command in commands(page):
        try:
            check(command)
        except (AssertionError, ValueError, OSError) as error:
            faults.append(f"{place}: {command}\n    {error}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page):
    assert not [str(block) for block in doc_pages.blocks(page) if block.language not in LANGUAGES]


def test_a_wrong_command_is_noticed(monkeypatch):
    monkeypatch.chdir(ROOT)
    train = "python -m masksearch_jax.train --config=configs/dapo.py"
    for wrong in (
        "python -m masksearch_jax.trian --config=configs/dapo.py",
        "python -m masksearch_jax.train --config=configs/dapo.py:nonsense",
        "python -m masksearch_jax.train --config=configs/no.py",
        f"{train} --config.dapo.clip_hihg=0.3",
        f"{train} --config.dapo.iterations=many",
        f"{train} --config.dapo.reward.answer=luck",
        f"{train} --no_such_flag=1",
        "bash launch/no.sh",
        "bash launch/test.sh tests/no_such_test.py",
        "python launch/tpu_vm.py create --no-such-flag",
        "gcloud storage ls",
    ):
        with pytest.raises((AssertionError, ValueError, OSError)):
            check(wrong)


def check(command: str) -> None:
    """Raise AssertionError, ValueError or OSError that says what is wrong with a command."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    words = [word for word in words if word != ".."]
    if words and words[-1] == "&":
        words.pop()
    program = words.pop(0).rpartition("/")[2]
    if program == "bash":
        script = ROOT / words.pop(0)
        assert script.is_file(), f"{script} does not exist"
        if script.name == "test.sh":
            _check_tests(words)
        overrides = [word for word in words if word.startswith("--config.")]
        workflow = re.search(r"--config=(configs/\w+\.py)", script.read_text())
        assert not overrides or workflow, f"{script} takes no overrides"
        if overrides:
            _check_config(workflow[1], overrides, "train")
    elif program.startswith("python") and words[0] == "-m":
        _check_module(words[1], words[2:])
    elif program.startswith("python") and words[0].startswith("launch/"):
        _check_launcher(ROOT / words[0], words[1:])
    else:
        raise AssertionError("neither one of our commands nor a block with <!-- not run: reason --> above it")


def _check_tests(words: list[str]) -> None:
    missing = [word for word in words if word.startswith("tests/") and ".." not in word and not (ROOT / word).exists()]
    assert not missing, f"{missing} do not exist"


def _check_module(module: str, words: list[str]) -> None:
    if module == "pytest":
        return _check_tests(words)
    source = ROOT / (module.replace(".", "/") + ".py")
    if source.with_suffix("").is_dir():
        source = source.with_suffix("") / "__main__.py"
    assert module.startswith(("masksearch_jax.", "benchmarks.")) and source.is_file(), f"there is no module {module}"
    text = source.read_text()
    if "cli.run_config(" in text:
        text += (ROOT / "masksearch_jax" / "runtime" / "cli.py").read_text()
    flags = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"|add_argument\(\s*"--(\w+)"', text))
    flags = {name for pair in flags for name in pair if name}
    config, overrides = None, []
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            continue
        if name == "config":
            config = value
        elif name.startswith("config."):
            overrides.append(word)
        else:
            assert name in flags, f"{module} has no flag --{name}; it has {sorted(flags)}"
    default = re.search(r'cli\.run_config\([\w.]+, "([^"]+)"', text)
    config = config or (default and default[1])
    assert config or not overrides, f"{module} needs --config for {overrides}"
    if config:
        # `prepare` also takes the config of a run.
        own = Path(config.partition(":")[0]).stem == source.stem
        _check_config(config, overrides, KINDS.get(source.stem, "train") if own else "train")


def _check_launcher(script: Path, words: list[str]) -> None:
    text = script.read_text() + (ROOT / "launch" / "cloud_run.py").read_text()
    ours, overrides = words, []
    if "--" in words:
        ours, overrides = words[: words.index("--")], words[words.index("--") + 1 :]
    assert not ours or f'"{ours[0]}"' in text, f"{script} has no command {ours[0]}"
    options = dict(word.partition("=")[::2] for word in ours if word.startswith("--"))
    missing = [name for name in options if f'"{name}"' not in text]
    assert not missing, f"{script} has no {missing}"
    if "--config" in options:
        _check_config(options["--config"], overrides, "train")


def _check_config(name: str, overrides: list[str], kind: str) -> None:
    if "<" in name or re.search(r"/[A-Z]+\.py", name):
        return
    config = _load(name).copy_and_resolve_references() if overrides else _load(name)
    for override in overrides:
        path, equals, value = override.removeprefix("--config.").partition("=")
        assert equals, f"{override} has no value"
        section, _, leaf = path.rpartition(".")
        held = config
        for part in filter(None, section.split(".")):
            assert part in held, f"{override}: {name} has no section {section}"
            held = held[part]
        assert leaf in held and not isinstance(held[leaf], ConfigDict), f"{override}: {name} has no such setting"
        if isinstance(held[leaf], str):
            found = value
        elif _PLACEHOLDER.fullmatch(value):
            continue
        else:
            found = ast.literal_eval(value) if value not in ("True", "False") else value == "True"
            same = isinstance(found, type(held[leaf])) or (isinstance(held[leaf], float) and isinstance(found, int))
            assert same, f"{override}: the setting is a {type(held[leaf]).__name__}"
        rule = setting_ranges.rule_of(setting_ranges.RANGES[kind], path)
        if rule:
            rule.check(path, found)
        held[leaf] = found
    validate_settings(config, kind)


@functools.cache
def _load(name: str) -> ConfigDict:
    path, _, variant = name.partition(":")
    assert (ROOT / path).is_file(), f"{path} does not exist"
    return runpy.run_path(str(ROOT / path))["get_config"](variant)
