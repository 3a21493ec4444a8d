"""Stage I by SFT: a tiny policy learns from demonstrations to plan, search and answer.

Command:  python -m masksearch_jax.train --config=configs/sft.py --workdir=runs/sft
          python -m masksearch_jax.train --config=configs/sft.py:slice --config.prepare.dump=FILE --workdir=W
Hardware: two CPU cores. What W lacks is prepared first (toy encyclopedia, tasks, index, demonstrations).
Expect:   see README, "What the one command shows".
"""

from configs import common


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, "slice")
    config = common.line()
    config.job = "sft"
    config.sft = common.sft()
    if arg == "slice":
        common.real_text(config)
    return config
