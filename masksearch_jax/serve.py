"""Serve a policy over HTTP, as OpenAI's clients speak it; with --agent a question goes through the whole search loop.

python -m masksearch_jax.serve --policy=W/dapo
python -m masksearch_jax.serve --policy=W/dapo --agent
python -m masksearch_jax.serve --policy=EXPORTED --workdir=W --agent      a folder of `convert`, which searches W/data
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from masksearch_jax.runtime import cli

_POLICY = flags.DEFINE_string("policy", None, "A trained stage such as W/dapo, or a published folder.", required=True)
_AGENT = flags.DEFINE_bool("agent", False, "Answer chat completions by the search loop.")


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import serving  # imported here, so that --help needs no JAX

    data_of = workdir if flags.FLAGS.workdir else None  # without the flag: the run that the policy lies in
    serving.run(cfg, Path(_POLICY.value), data_of, _AGENT.value)


if __name__ == "__main__":
    cli.run_config(main, "configs/serve.py", resumable=False)  # on SIGTERM it drains its connections
