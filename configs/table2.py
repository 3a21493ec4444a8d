"""Table 2 of the paper on the toy world: its eight methods and four of ours, six benchmarks, three seeds, one base.

Command:  python -m masksearch_jax.experiment --config=configs/table2.py --workdir=runs/table2
          python -m masksearch_jax.experiment --config=configs/table2.py:corroborated --workdir=runs/corroborated
              a third article also states each fact; its title is no answer
Hardware: two CPU cores.
Expect:   78 minutes; W/report.json, W/report.html and the tables of docs/results/methods.md.

The base stands in for an instruct model: SFT on the tool warm-up tasks (`tool_warmup`), which are neither RAMP nor
questions. Stage I trains on RAMP, stage II on HotpotQA-like questions. The other five columns are benchmarks that no
stage trains on. Methods whose names end in "same tokens" train in stage II on as many tokens as their baselines in both
stages.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, dapo

SEEDS = (0, 1, 2)
COLUMNS = ("hotpotqa", "fanoutqa", "musique", "two_wiki", "bamboogle", "freshqa")

VARIANTS = ("corroborated",)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = grid_config()
    config.prepare.corroborating_articles = 1.0 if arg == "corroborated" else 0.0
    config.stages = ConfigDict({
        "base": sft(1000, (("tool_warmup", 1.0),)),
        # A fifth are still tool warm-up tasks. Without them, a policy of this size forgets everything that is not
        # a masked passage.
        "ramp_sft": sft(
            600,
            (("tool_warmup", 0.2), ("ramp_1", 0.48), ("ramp_2", 0.24), ("ramp_3", 0.06), ("ramp_4", 0.02)),
            first=((1500, (("tool_warmup", 0.2), ("ramp_1", 0.8))),),
        ),
        "ramp_rl": rl(25, (("ramp_1", 0.75), ("ramp_2", 0.25))),
        "qa_sft": sft(300, (("qa", 1.0),)),
        "qa_rl": rl(35, (("qa", 1.0),)),
        "qa_sft_long": sft(900, (("qa", 1.0),)),
        "qa_rl_long": rl(60, (("qa", 1.0),)),
    })
    config.grid.methods = (
        # label, chain of stages, policy, label of the baseline
        ("RAG-PE", "base", "one_search", ""),
        ("Agent-PE", "base", "", ""),
        ("Distilled Search-R1", "base/qa_sft", "", "Agent-PE"),
        ("Search-R1", "base/qa_rl", "", "Agent-PE"),
        ("MaskSearch SFT+SFT", "base/ramp_sft/qa_sft", "", "Distilled Search-R1"),
        ("MaskSearch RL+SFT", "base/ramp_rl/qa_sft", "", "Distilled Search-R1"),
        ("MaskSearch SFT+RL", "base/ramp_sft/qa_rl", "", "Search-R1"),
        ("MaskSearch RL+RL", "base/ramp_rl/qa_rl", "", "Search-R1"),
        # trained on no question
        ("MaskSearch SFT alone", "base/ramp_sft", "", "Agent-PE"),
        ("MaskSearch RL alone", "base/ramp_rl", "", "Agent-PE"),
        # as many tokens in stage II as SFT+SFT and RL+RL had in both stages
        ("Distilled Search-R1, same tokens", "base/qa_sft_long", "", "MaskSearch SFT+SFT"),
        ("Search-R1, same tokens", "base/qa_rl_long", "", "MaskSearch RL+RL"),
    )
    return config


def grid_config() -> ConfigDict:
    """Return the config without stages and methods: tasks of every kind, seeds, columns, short evaluations."""
    config = dapo.get_config()
    config.workflow = "grid"
    config.grid = ConfigDict({
        "seeds": SEEDS,  # each has its own world, data, weights and episodes
        "at_once": len(SEEDS),  # seeds run in parallel, one process each; 1 on an accelerator, held by one process
        "columns": COLUMNS,  # the suites of the evaluation that the table shows
        "methods": (),
        "groups": (),  # (title, (label, ..)): methods whose curves the report draws in one chart; (): all
    })
    config.prepare.tool_warmup = True
    config.synthesize.probe_tasks = 0
    config.synthesize.examples.update({"tool_warmup": 3500, "ramp_1": 3000, "ramp_2": 1200, "qa": 10_000})
    config.evaluate.episodes.update({
        "tool_warmup": 200, "ramp_1": 200, "ramp_2": 100, "ramp_3": 0, "ramp_4": 0, "qa": 0,
    })  # fmt: skip
    return config


def sft(steps: int, weights, first=()) -> ConfigDict:
    """Return an SFT stage of `steps` on a schedule of its own.

    weights: ((task, weight), ..) of the last phase; first: the phases before it.
    """
    return ConfigDict({
        "kind": "sft",
        "settings": {
            "steps": steps,
            "eval_every": 0,
            "curriculum": (*first, (None, weights)),
            "optimizer": {"total_steps": steps},
        },
    })


def rl(iterations: int, weights) -> ConfigDict:
    """Return a DAPO stage. A stage that finds nothing to reward is a result of the table, so it runs to its end."""
    settings = {"iterations": iterations, "eval_every": 0, "curriculum": ((None, weights),), "max_without_update": 0}
    return ConfigDict({"kind": "dapo", "settings": settings})
