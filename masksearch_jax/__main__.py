"""Run a command by its name: `masksearch train ..` runs `python -m masksearch_jax.train ..`."""

import runpy
import sys

COMMANDS = (
    "prepare", "synthesize", "train", "evaluate", "experiment", "report", "convert", "compile", "serve_search",
    "serve", "ask", "doctor",
)  # fmt: skip


def main() -> None:
    """Run `masksearch_jax.<first argument>` with the other arguments. List the commands if the first one is unknown."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print(f"usage: masksearch COMMAND [--flags]; the commands: {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(0 if name in ("--help", "-h", "help") else 2)
    del sys.argv[1]
    runpy.run_module(f"masksearch_jax.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
