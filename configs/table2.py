"""Table 2 of the paper on the toy world: eight methods, six benchmarks, three seeds, from one base.

Command:  python -m masksearch_jax.experiment --config=configs/table2.py --workdir=runs/table2
          python -m masksearch_jax.experiment --config=configs/table2.py:annals --workdir=runs/annals    facts in a
              third article as well, whose title is no answer
Hardware: two CPU cores.
Expect:   78 minutes; W/report.json, W/report.html and the tables of docs/experiments.md.

The base stands in for an instruct model: SFT on lookups, which are neither RAMP nor questions. Stage I is RAMP, stage
II the HotpotQA-like questions; the other five columns are of benchmarks that no stage trains on. Rows that end in
"same tokens" get in stage II what their twins had in both stages.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, dapo

SEEDS = (0, 1, 2)
COLUMNS = ("hotpotqa", "fanoutqa", "musique", "two_wiki", "bamboogle", "freshqa")


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, "annals")
    config = page()
    config.prepare.annals = 1.0 if arg == "annals" else 0.0
    config.stages = ConfigDict({
        "base": sft(1000, ((-1, 1.0),)),
        # A fifth are lookups still: without, a policy of this size forgets whatever is no masked passage.
        "ramp_sft": sft(
            600,
            ((-1, 0.2), (1, 0.48), (2, 0.24), (3, 0.06), (4, 0.02)),
            first=((1500, ((-1, 0.2), (1, 0.8))),),
        ),
        "ramp_rl": rl(25, ((1, 0.75), (2, 0.25))),
        "qa_sft": sft(300, ((0, 1.0),)),
        "qa_rl": rl(35, ((0, 1.0),)),
        "qa_sft_long": sft(900, ((0, 1.0),)),
        "qa_rl_long": rl(60, ((0, 1.0),)),
    })
    config.grid.rows = (
        # label, chain of stages, policy, the row it is compared with
        ("RAG-PE", "base", "one_search", ""),
        ("Agent-PE", "base", "", ""),
        ("Distilled Search-R1", "base/qa_sft", "", "Agent-PE"),
        ("Search-R1", "base/qa_rl", "", "Agent-PE"),
        ("MaskSearch SFT+SFT", "base/ramp_sft/qa_sft", "", "Distilled Search-R1"),
        ("MaskSearch RL+SFT", "base/ramp_rl/qa_sft", "", "Distilled Search-R1"),
        ("MaskSearch SFT+RL", "base/ramp_sft/qa_rl", "", "Search-R1"),
        ("MaskSearch RL+RL", "base/ramp_rl/qa_rl", "", "Search-R1"),
        # no question was ever seen
        ("MaskSearch SFT alone", "base/ramp_sft", "", "Agent-PE"),
        ("MaskSearch RL alone", "base/ramp_rl", "", "Agent-PE"),
        # as many tokens in stage II as SFT+SFT, RL+RL had in both
        ("Distilled Search-R1, same tokens", "base/qa_sft_long", "", "MaskSearch SFT+SFT"),
        ("Search-R1, same tokens", "base/qa_rl_long", "", "MaskSearch RL+RL"),
    )
    return config


def page() -> ConfigDict:
    """All but stages and rows: data of every kind, seeds, columns, short evaluations."""
    config = dapo.get_config()
    config.line = "grid"
    config.grid = ConfigDict({
        "seeds": SEEDS,
        "at_once": len(SEEDS),  # seeds side by side, a process each; 1 on an accelerator, which one process holds
        "columns": COLUMNS,
        "rows": (),
        "groups": (),  # (title, (label, ..)): rows whose curves the report draws together; (): all
    })
    config.prepare.lookups = True
    config.synthesize.probe_tasks = 0
    config.synthesize.examples.update({"lookup": 3500, "ramp_1": 3000, "ramp_2": 1200, "qa": 10_000})
    config.evaluate.episodes.update({"lookup": 200, "1": 200, "2": 100, "3": 0, "4": 0, "qa": 0})
    return config


def sft(steps: int, weights, first=()) -> ConfigDict:
    """A stage of SFT: `steps` on a schedule of its own. weights: ((level, weight), ..); first: phases before."""
    return ConfigDict({
        "job": "sft",
        "settings": {
            "steps": steps,
            "eval_every": 0,
            "curriculum": (*first, (None, weights)),
            "optimizer": {"total_steps": steps},
        },
    })


def rl(iterations: int, weights) -> ConfigDict:
    """A stage of DAPO. One that finds nothing to reward is a result of the table, and runs to its end."""
    settings = {"iterations": iterations, "eval_every": 0, "curriculum": ((None, weights),), "max_without_update": 0}
    return ConfigDict({"job": "dapo", "settings": settings})
