"""The text of `--help`: what the command does, its flags, the configs that it takes, and the settings of one of them.

Enters: the arguments of a command. Leaves: text. No JAX is imported, so the help appears at once.
"""

import ast
import os
import runpy
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict

from masksearch_jax.runtime.config_files import find_config, shipped_configs
from masksearch_jax.runtime.types import Setting

_ASKED = ("--help", "-help", "-h", "--helpfull", "--helpshort")


def asked_for(argv: Sequence[str]) -> bool:
    """Return True if one of the arguments before `--` asks for help."""
    end = argv.index("--") if "--" in argv else len(argv)
    return any(argument in _ASKED for argument in argv[:end])


def text(argv: Sequence[str], takes_config: bool) -> str:
    """Return the help of the command that runs as __main__.

    argv: its arguments; `--config=FILE[:variant]` among them adds the variants and settings of that config.
    takes_config: False for a command without --config. Raises FileNotFoundError for a config that does not exist, and
    ValueError for a variant that the config does not have.
    """
    command = sys.modules["__main__"]
    parts = [(command.__doc__ or "").strip(), "Flags:\n" + "\n".join(_flags())]
    if takes_config:
        named = _config_of(argv)
        parts += [_settings(named)] if named else [_configs(), _HOW]
    return "\n\n".join(parts)


def show(help_text: str) -> None:
    """Print the help. A reader that stops early, such as `head`, is no error."""
    try:
        print(help_text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends


_HOW = (
    "--config=CONFIG --help lists the settings of a config. --config.NAME=VALUE changes one; --config=CONFIG:VARIANT\n"
    "takes a variant."
)


def _flags() -> Iterator[str]:
    """Yield a line for each flag of the command, and for those that runtime/cli.py gives it."""
    own = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.modules["__main__"])]
    shared = [name for name in ("config", "workdir") if name in flags.FLAGS]
    for name in dict.fromkeys([*own, *shared]):
        yield _flag(flags.FLAGS[name])


def _flag(flag: flags.Flag) -> str:
    default = f" (default: {flag.default})" if flag.default not in (None, "", False) else ""
    return f"  --{flag.name:<14} {flag.help}{default}"


def _config_of(argv: Sequence[str]) -> str:
    """Return what `--config` names among the arguments, '' if it is not among them."""
    for place, argument in enumerate(argv):
        name, separator, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if separator else next(iter(argv[place + 1 : place + 2]), "")
    return ""


def _configs() -> str:
    lines = ["Configs that the package ships:"]
    for file in sorted(shipped_configs().glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body):
            about = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
            lines.append(f"  configs/{file.name:<20} {about.split('. ')[0].rstrip('.')}")
    return "\n".join(lines)


def _settings(named: str) -> str:
    """Return the docstring of a config, its variants, and each setting with its value in the variant that is named."""
    path, _, variant = find_config(named).partition(":")
    try:
        module = runpy.run_path(path)
    except SyntaxError as error:
        raise ValueError(f"{path} is no Python file: {error}") from None
    if "get_config" not in module:
        raise ValueError(f"{path} is no config: it has no function get_config")
    config = module["get_config"](variant) if variant else module["get_config"]()
    variants = ", ".join(module.get("VARIANTS", ())) or "none"
    settings = "\n".join(f"  --config.{name}={value!r}" for name, value in _leaves(config))
    about = f"{named}: {(module.get('__doc__') or '').strip()}"
    return f"{about}\n\nVariants: {variants}\n\nSettings and their values:\n{settings}"


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
