"""Make W/data (tasks and search indices) from a dump or from the toy encyclopedia.

python -m masksearch_jax.prepare --config=configs/prepare.py --config.dump=FILE --workdir=W
"""

from masksearch_jax.runtime import cli
from masksearch_jax.workflows import data_preparation

if __name__ == "__main__":
    cli.start(data_preparation.run, "configs/prepare.py")
