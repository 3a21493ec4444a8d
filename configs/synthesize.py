"""Demonstrations for SFT: a teacher plans, queries the real index and answers; only correct trajectories are kept.

Command:  python -m masksearch_jax.synthesize --config=configs/synthesize.py --workdir=W      (W/data must be there)
          python -m masksearch_jax.synthesize --config=configs/synthesize.py:strong --workdir=W
          python -m masksearch_jax.synthesize --config=configs/synthesize.py:agents --config.llm.url=http://HOST:PORT/v1
              --config.llm.model=NAME --workdir=W
          python -m masksearch_jax.synthesize --config=configs/dapo.py:qwen2.5-1.5b --config.pretrained=HF_FOLDER
              --workdir=W                    for a training with other search or episode settings: with its own config
The default teacher follows rules, knows the answers and costs nothing. The agents are a language model behind an
OpenAI-compatible server, or a checkpoint (docs/guides/agents.md).
Hardware: two CPU cores.
Expect:   W/demonstrations/manifest.json with the counts of accepted and rejected trajectories by number of masks.
"""

from masksearch_jax.configs import common

VARIANTS = ("strong", "agents")


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = common.base_config()
    config.synthesize = common.synthesize(strong=arg == "strong")
    if arg == "agents":
        config.synthesize.teacher = "agents"
    return config
