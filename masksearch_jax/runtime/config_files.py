"""Find a config: in the working directory, else among those that the package ships.

So `--config=configs/dapo.py` means the same in a clone and, after `pip install`, in any other folder.
"""

import importlib.util
import re
from pathlib import Path


def find_config(name: str) -> str:
    """Return the path of a config; `name` may end in ':argument', which is kept.

    A file in the working directory takes precedence. Else 'configs/X.py' means the one in the installed package. Raises
    FileNotFoundError that names both places if neither holds the file.
    """
    path, separator, argument = name.partition(":")
    if re.fullmatch(r"[A-Za-z]", path) and argument[:1] in ("/", "\\"):  # the drive of a Windows path
        drive = f"{path}:"
        path, separator, argument = argument.partition(":")
        path = drive + path
    if Path(path).is_file():
        return name
    asked = Path(path)
    shipped = shipped_configs()
    if not asked.is_absolute() and asked.parts[:1] == ("configs",):
        found = shipped.joinpath(*asked.parts[1:])
        if found.is_file():
            return f"{found}{separator}{argument}"
    listed = ", ".join(f"configs/{file.name}" for file in sorted(shipped.glob("*.py")))
    raise FileNotFoundError(
        f"--config={name}: there is no file {path} in {Path.cwd()}, and no config of that name in {shipped}; "
        f"give a path, or one of {listed}"
    )


def shipped_configs() -> Path:
    """Return the folder of the package's own configs."""
    spec = importlib.util.find_spec("masksearch_jax.configs")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("this installation of masksearch_jax has no configs; install the package again")
    return Path(next(iter(spec.submodule_search_locations)))
