"""Serve the search indices of a workdir over HTTP.

python -m masksearch_jax.serve_search --config=configs/serve_search.py --workdir=W
"""

from masksearch_jax.runtime import cli
from masksearch_jax.workflows import search_server

if __name__ == "__main__":
    cli.start(search_server.run, "configs/serve_search.py", resumable=False)  # on SIGTERM it drains its connections
