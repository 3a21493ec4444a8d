"""Serve the search indices of a workdir over HTTP.

python -m masksearch_jax.serve_search --config=configs/serve_search.py --workdir=W
"""

from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import cli


def main(cfg: ConfigDict, workdir: Path) -> None:
    from masksearch_jax.workflows import search_server  # imported here, so that --help needs no JAX

    search_server.run(cfg, workdir)


if __name__ == "__main__":
    cli.run_config(main, "configs/serve_search.py", resumable=False)  # on SIGTERM it drains its connections
