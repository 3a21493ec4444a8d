"""Code of the user's own that a setting names: FILE.py:NAME.

Enters: the value of a setting. Leaves: the object of that name, and the hash of the file, which belongs to the identity
of a checkpoint. The file is run once a process, as a module whose name is made of its own and of its folder; what it
imports from its own folder is found there, unless a file of another folder has imported a module of that name before.
Only the file itself is hashed.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path

from masksearch_jax.rl import own_reward
from masksearch_jax.runtime.types import ConfigSection, Setting


@dataclasses.dataclass(frozen=True)
class OwnCode:
    """found: the object that the file defines. digest: sha256 of the file, in hexadecimal digits."""

    found: Setting
    digest: str


def is_file(value: str) -> bool:
    """Return True for a value of the form FILE.py:NAME."""
    file, colon, name = value.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def load(setting: str, value: str) -> OwnCode:
    """Return what FILE.py:NAME names. setting: whose value it is, for messages.

    Raises ValueError that names the setting and what is wrong: another form, no such file, a file that cannot be run
    (with the line), no such name in it.
    """
    if not is_file(value):
        raise ValueError(f"{setting}={value!r} has to be FILE.py:NAME, such as my_code.py:score")
    file, _, name = value.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise ValueError(f"{setting}={value}: there is no file {path}")
    try:
        names, digest = _run(path, path.read_bytes())
    except _RunError as error:
        raise ValueError(f"{setting}: {error}") from error.__cause__
    if name not in names:
        own = [one for one, what in names.items() if callable(what) and not one.startswith("_")]
        raise ValueError(f"{setting}={value}: {path} defines no {name!r}; it has {', '.join(own) or 'nothing'}")
    return OwnCode(names[name], digest)


class _RunError(Exception):
    """The file cannot be run; the message names it, the line and the error."""


@functools.cache
def _run(path: Path, source: bytes) -> tuple[dict[str, Setting], str]:
    # Files of one name in two folders are two modules.
    unique = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}_{unique}", path)
    assert spec is not None  # of a path that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        # Not by the spec's loader: it would read the file once more, or take bytecode of an earlier one.
        exec(compile(source, str(path), "exec"), vars(module))
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        at = f", line {lines[-1]}" if lines else f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise _RunError(f"{path}{at} raised {type(error).__name__}: {error}") from error
    return vars(module), hashlib.sha256(source).hexdigest()


def check_takes(called: str, found: Setting, arguments: int, takes: str) -> None:
    """Raise ValueError that says `takes` unless `found` can be called with so many arguments."""
    if not callable(found):
        raise ValueError(f"{called} is a {type(found).__name__}: {takes}")
    try:
        inspect.signature(found).bind(*[None] * arguments)
    except TypeError as error:
        raise ValueError(f"{called}: {takes} ({error})") from error


def load_reward(reward: ConfigSection) -> own_reward.OwnReward | None:
    """Return the reward function of the section `dapo.reward`, None without one.

    Raises ValueError that names the setting and what is wrong with file, function or weights.
    """
    if not reward.file:
        return None
    own = load("dapo.reward.file", reward.file)
    takes = "it has to be a function of (task, trajectory, spans)"
    check_takes(f"dapo.reward.file={reward.file}", own.found, 3, takes)
    weights = own_reward.read_weights(reward.weights)
    return own_reward.OwnReward(own.found, reward.file, own.digest, weights)
