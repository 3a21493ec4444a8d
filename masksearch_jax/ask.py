"""Ask a policy one question, or give it a passage with [mask]s: its searches, its answer and its sources.

python -m masksearch_jax.ask "Where was Karn Velith born?" --policy=W/dapo
python -m masksearch_jax.ask "Karn Velith was born in [mask]." --policy=EXPORTED --workdir=W      it searches W/data
"""

from pathlib import Path

from absl import app, flags, logging

from masksearch_jax.runtime import cli


def main(argv: list[str]) -> None:
    from masksearch_jax.workflows import asking  # imported here, so that --help needs no JAX

    if len(argv) != 2:
        raise app.UsageError("one question is needed, in quotes")
    logging.set_verbosity(logging.ERROR)  # Orbax logs every call
    given = flags.FLAGS
    workdir = Path(given.workdir) if given.workdir else None
    try:
        asking.run(argv[1], Path(given.policy), workdir, given.index, given.search_url, given.temperature)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"ask: {cli.sentence(error)}") from error


if __name__ == "__main__":
    flags.DEFINE_string("policy", None, "A trained stage such as W/dapo, or a published folder.", required=True)
    flags.DEFINE_string("workdir", "", "The run whose data is searched; default the run that the policy lies in.")
    flags.DEFINE_string("index", "all", "The index that is searched, of W/data/index.")
    flags.DEFINE_string("search_url", "", "A server of Search-R1's /retrieve to search instead.")
    flags.DEFINE_float("temperature", 0.0, "Of the samples; 0 is greedy.", 0.0)
    cli.run(main)
