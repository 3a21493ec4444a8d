"""Demonstrations for SFT: an oracle plans, queries the real index and answers; only what reading supports is kept.

Command:  python -m masksearch_jax.synthesize --config=configs/synthesize.py --workdir=W      (W/data must be there)
          python -m masksearch_jax.synthesize --config=configs/synthesize.py:strong --workdir=W
Hardware: two CPU cores.
Expect:   W/demonstrations/manifest.json with the counts of accepted and rejected trajectories per mask level.
"""

from configs import common


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, "strong")
    config = common.line()
    config.synthesize = common.synthesize(strong=arg == "strong")
    return config
