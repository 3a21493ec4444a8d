"""The quickstart: from a dump to a table of scores in minutes, with one command and no preparation.

Command:  bash launch/quickstart.sh
          python -m masksearch_jax.experiment --config=configs/quickstart.py --workdir=runs/quickstart
          python -m masksearch_jax.experiment --config=configs/quickstart.py:proof    adds SFT for as long as DAPO took
          python -m masksearch_jax.experiment --config=configs/quickstart.py:strong   with a strong teacher
          python -m masksearch_jax.experiment --config=configs/quickstart.py:dump --config.prepare.dump=FILE
Hardware: two CPU cores.
Expect:   see docs/results/quickstart.md.
"""

from masksearch_jax.configs import common, dapo

VARIANTS = ("proof", "strong", "dump")


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = dapo.get_config("dump" if arg == "dump" else "")
    config.workflow = "quickstart"  # what experiment runs: quickstart | language_model | evolve | grid
    # The policies that are scored; see `policy` of configs/evaluate.py.
    config.policies = ("untrained", "one_search", "sft", "dapo")
    config.evaluate.benchmarks.update(dict.fromkeys(config.evaluate.benchmarks, 0))  # configs/evaluate.py scores them
    if arg == "proof":
        config.policies = ("untrained", "one_search", "sft", "sft_more", "dapo")
    if arg == "strong":
        config.synthesize = common.synthesize(strong=True)
    return config
