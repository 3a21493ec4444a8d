"""The start of every command: a config and a workdir from the command line, one call, and errors as one line.

`--config=PAGE[:argument]` with `--config.x=y` overrides (ml_collections: unknown and ill-typed settings are refused)
and `--workdir`, by default runs/<name of the config>. `--help` needs no JAX: it is imported after the flags are parsed.
"""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from masksearch_jax.runtime import child_process, help_page, stop_signals
from masksearch_jax.runtime.config_files import find_config

# Seconds that the parts of a batch may wait for one another before XLA aborts, and before it warns that they are stuck.
_PATIENCE = {
    "xla_cpu_collective_call_terminate_timeout_seconds": 3600,
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 600,
}


def run_config(call: Callable[[ConfigDict, Path], object], page: str | None, resumable: bool = True) -> None:
    """Parse the flags and run `call(settings, workdir)`. page: the default config; None makes --config required.

    ValueError and OSError (also ConnectionError) end the process with one sentence and exit status 1.
    resumable: SIGTERM and Ctrl-C end the process with exit status 75, and the same command resumes it
    (runtime/stop_signals.py). An alarm of training with the action stop ends it with 3. A process that another command
    started ends with that command.
    """
    child_process.end_with_parent()
    default = page and find_config(page)
    config = config_flags.DEFINE_config_file("config", default, "The config: a file of settings.", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Everything the run makes; default runs/<name of the config>.")
    if page is None:
        flags.mark_flag_as_required("config")

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}")
        logging.set_verbosity(logging.ERROR)  # Orbax logs every call
        split_cpu(config.value.get("cpu_devices", 0))
        from masksearch_jax.runtime import terminal_screen  # imported here, so that --help appears at once

        name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
        try:
            with stop_signals.listening() if resumable else contextlib.nullcontext():
                try:
                    call(config.value, Path(workdir.value or f"runs/{name}"))
                finally:
                    terminal_screen.close()  # what follows stands below the live view
        except stop_signals.PreemptedError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            raise SystemExit(error.status) from None
        except (ValueError, OSError) as error:
            raise SystemExit(f"{name}: {sentence(error)}") from error
        except subprocess.CalledProcessError as error:
            if error.returncode in (stop_signals.RETRY, stop_signals.ALARMED):  # the child has said why
                raise SystemExit(error.returncode) from None
            raise SystemExit(
                f"{name}: a step failed with exit status {error.returncode}; its message stands above"
            ) from None

    run(main, takes_config=True)


def run(main: Callable[[list[str]], object], takes_config: bool = False) -> None:
    """Parse the flags and run `main(arguments that are no flags)`. `--help` prints the help and exits with status 0.

    takes_config: True if the command has the flag --config.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            if help_page.asked_for(argv):
                help_page.show(help_page.text(argv, takes_config))
                raise SystemExit(0)
            return flags.FLAGS(_with_found_config(argv))
        except (AttributeError, TypeError, ValueError, flags.Error, FileNotFoundError) as error:
            raise SystemExit(f"{Path(argv[0]).stem}: {error}") from None

    app.run(main, flags_parser=parse)


def _with_found_config(argv: list[str]) -> list[str]:
    """Return the arguments with the path of the file that `--config` names, as `find_config` finds it.

    Raises FileNotFoundError for a file that is neither in the working directory nor shipped with the package.
    """
    found = list(argv)
    for i, argument in enumerate(argv):
        if argument == "--":
            break
        name, separator, value = argument.partition("=")
        if name in ("--config", "-config") and separator and value:
            found[i] = f"--config={find_config(value)}"
        elif name in ("--config", "-config") and not separator and i + 1 < len(argv):
            found[i + 1] = find_config(argv[i + 1])
    return found


def sentence(error: Exception) -> str:
    """Return an error's message; for an error of the file system also which file it is about, and what may help."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        # A write into an open file does not say which one, and Orbax raises a ValueError for its own.
        number, codes = getattr(error, "errno", None), (errno.ENOSPC, errno.EDQUOT)
        full = number in codes or any(os.strerror(code) in str(error) for code in codes)
        return f"{error}; free some of the disk of --workdir, and start the same line again" if full else str(error)
    advice = {
        errno.EACCES: "give this user the right to, or take another --workdir",
        errno.EPERM: "give this user the right to, or take another --workdir",
        errno.EROFS: "the file system is read-only: take another --workdir",
        errno.ENOSPC: "the disk is full: free some of it, or take another --workdir",
        errno.EDQUOT: "the quota is used up: free some of it, or take another --workdir",
        errno.ENOTDIR: "something that is no folder stands in its place: move it away",
        errno.EISDIR: "a folder stands where a file belongs: move it away",
    }.get(error.errno, "see that it is there and can be read and written")
    return f"{error.filename}: {error.strerror} ({type(error).__name__}); {advice}"


def split_cpu(devices: int) -> None:
    """Make a CPU host count as that many devices; call it before JAX is used.

    0 changes nothing, and neither does any number if XLA_FLAGS sets the device count already. The narrow operations of
    a small model do not fill two cores, but a batch cut in two does. On a machine that other work keeps busy, the parts
    may wait for one another longer than the 20 s after which XLA warns by default, and the 40 s after which it aborts
    the process; so both limits are raised.
    """
    import jax

    given = os.environ.get("XLA_FLAGS", "")
    if devices and "xla_force_host_platform_device_count" not in given:
        jax.config.update("jax_num_cpu_devices", devices)
        more = [f"--{name}={seconds}" for name, seconds in _PATIENCE.items() if name not in given]
        os.environ["XLA_FLAGS"] = " ".join([given, *more]).strip()
