"""Files of the user's own that settings name: FILE.py:NAME."""

import hashlib
import sys

import pytest

from configs import dapo
from masksearch_jax.trainers import position
from masksearch_jax.workflows import own_code, tools


def test_the_object_and_the_hash_of_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import beside\n\ndef score(task, trajectory, spans):\n    return {'a': beside.ONE}\n")
    (tmp_path / "beside.py").write_text("ONE = 1.0\n")
    own = own_code.load("dapo.reward.file", f"{file}:score")
    assert own.found(None, None, None) == {"a": 1.0}
    assert own.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text("def score(task, trajectory, spans):\n    return {'a': 2.0}\n")
    assert own_code.load("dapo.reward.file", f"{file}:score").digest != own.digest


@pytest.mark.parametrize(
    ("source", "named", "message"),
    [
        ("def score(a, b): pass", "score", r"has to be a function of \(task, trajectory, spans\).*too many"),
        ("score = 3", "score", "is a int: it has to be a function"),
        ("def scores(a, b, c): pass", "score", "defines no 'score'; it has scores"),
        ("x = 1\nraise OSError('no disk')", "score", "mine.py, line 2 raised OSError: no disk"),
        ("def score(:\n", "score", "mine.py, line 1 raised SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, source, named, message):
    (tmp_path / "mine.py").write_text(source)
    section = dapo.dapo().reward
    section.file = f"{tmp_path / 'mine.py'}:{named}"
    with pytest.raises(ValueError, match=message):
        own_code.load_reward(section)


def test_a_file_runs_once_for_all_settings_and_anew_when_it_has_changed(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("made = []\ndef f(): return 1\n")
    first = own_code.load("tools.search", f"{file}:made").found
    assert own_code.load("tools.more.calc", f"{file}:made").found is first
    # Within one second and of the same size: bytecode of the earlier text would look valid.
    file.write_text("made = []\ndef f(): return 2\n")
    assert own_code.load("tools.search", f"{file}:f").found() == 2
    assert not (tmp_path / "__pycache__").exists()


def test_other_forms_are_refused(tmp_path):
    for value, message in (("mine.py", "has to be FILE.py:NAME"), (f"{tmp_path}/none.py:f", "there is no file")):
        with pytest.raises(ValueError, match=f"dapo.reward.file=.*{message}"):
            own_code.load("dapo.reward.file", value)


def test_a_checkpoint_knows_the_reward_that_it_was_trained_with():
    saved = {"index": "i", "seed": 0, "reward": "abc"}
    position.check_identity(saved, dict(saved))
    for current in ({"index": "i", "seed": 0}, saved | {"reward": "abd"}):
        with pytest.raises(ValueError, match="reward: abc there, (None|abd) here"):
            position.check_identity(saved, current)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search": "somewhere"}, "tools.search='somewhere' has to be FILE.py:NAME, http://"),
        ({"search": "article"}, "tools.search='article' has to be"),
        ({"visit": "mcp:tool"}, "tools.visit='mcp:tool' has to be"),
        ({"more": ("calc",)}, "tools.more has 'calc': entries are NAME=WHERE"),
        ({"more": ("answer=http://h",)}, "tools.more=.*'answer' cannot name a tool"),
        ({"more": ("visit=http://h",), "visit": "article"}, "'visit' cannot name a tool"),
        ({"more": ("calc=calc.txt",)}, "tools.more.calc='calc.txt' has to be"),
        ({"search": "http://h/s", "visit": "article"}, "tools.visit='article' reads the articles of W/data"),
    ],
)
def test_tools_that_cannot_be_are_named(settings, message):
    config = dapo.get_config()
    config.tools.update(settings)
    with pytest.raises(ValueError, match=message):
        tools.validate_tools(config)


def test_a_tool_in_a_file_is_a_function_or_a_class(tmp_path):
    (tmp_path / "calc.py").write_text(
        "def calc(query, k): return query\n\nclass Tool:\n    def __call__(self, query, k): return query\n\n"
        "class Bad:\n    def __call__(self, query): return query\n\nclass Broken:\n    def __init__(self): 1 / 0\n"
    )
    for name in ("calc", "Tool"):
        assert tools._function("tools.more.calc", f"{tmp_path}/calc.py:{name}")[0]("1", 2) == "1"
    for name, message in (("Bad", r"has to be a function of \(query, k\)"), ("Broken", "raised ZeroDivisionError")):
        with pytest.raises(ValueError, match=message):
            tools._function("tools.more.calc", f"{tmp_path}/calc.py:{name}")


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path):
    found = []
    for folder in ("one", "other"):
        file = tmp_path / folder / "mine.py"
        file.parent.mkdir()
        file.write_text(f"import dataclasses\n@dataclasses.dataclass\nclass Own:\n    name: str = {folder!r}\n")
        found.append(own_code.load("tools.search", f"{file}:Own").found)
    for one, folder in zip(found, ("one", "other"), strict=True):
        assert sys.modules[one.__module__].Own is one and one().name == folder
