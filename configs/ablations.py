"""What each part of stage I by RL contributes: one change at a time against one baseline, from one warm start.

Command:  python -m masksearch_jax.experiment --config=configs/ablations.py --workdir=runs/ablations
          python -m masksearch_jax.experiment --config=configs/ablations.py:judge --workdir=runs/ablations
              --config.llm.url=URL --config.llm.model=NAME             a model that judges answers as a reward as well
Hardware: two CPU cores.
Expect:   78 minutes with the judge's row; W/report.json, W/report.html with the curves of every cell, and the table of
          docs/ablations.md.

The baseline is DAPO as configs/dapo.py has it, with fewer iterations. Columns are held-out RAMP by number of masks.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, dapo, table2

_WARM = "warm"
_ITERATIONS = 20
_MIXED = ((None, ((1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1))),)
_STAGED = ((300, ((1, 1.0),)), (300, ((1, 0.5), (2, 0.5))), (None, _MIXED[0][1]))
# label, what differs from the baseline
_CHANGES = {
    "mixed masks from the start": {"curriculum": _MIXED},
    "one mask only": {"curriculum": ((None, ((1, 1.0),)),)},
    "reward: recall": {"reward": {"answer": "recall"}},
    "reward: recall, any length": {"reward": {"answer": "recall", "overlong_limit": 0}},
    # All groups are trained on, in as many mini-batches; iterations follow from what the baseline generated.
    "no dynamic sampling": {"dynamic_sampling": False, "max_generations": 1, "groups": 32, "micro_batches": (3, 8, 16)},
    "symmetric clip": {"clip_high": 0.2},
}


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, "judge")
    changes = _CHANGES | ({"reward: judge": {"reward": {"answer": "judge"}}} if arg == "judge" else {})
    config = dapo.get_config()
    config.line = "grid"
    config.synthesize.probe_tasks = 0
    config.evaluate.episodes.update({"1": 400, "2": 200, "3": 100, "4": 100, "qa": 0})
    config.evaluate.benchmarks.update(dict.fromkeys(config.evaluate.benchmarks, 0))
    stages = {_WARM: table2.sft(600, ((1, 0.55), (2, 0.33), (3, 0.09), (4, 0.03)), first=((1500, ((1, 1.0),)),))}
    # A row that learns nothing is a result here, so no number of iterations without an update ends it.
    baseline = {"iterations": _ITERATIONS, "eval_every": 0, "curriculum": _STAGED, "max_without_update": 0}
    rows = [("SFT (warm start)", _WARM, "", ""), ("baseline", f"{_WARM}/rl_0", "", "SFT (warm start)")]
    for number, change in enumerate([{}, *changes.values()]):
        stages[f"rl_{number}"] = ConfigDict({"job": "dapo", "settings": baseline | change})
        if not change.get("dynamic_sampling", True):
            stages[f"rl_{number}"].generations_of = f"{_WARM}/rl_0"
    rows += [(label, f"{_WARM}/rl_{number}", "", "baseline") for number, label in enumerate(changes, start=1)]
    # How much SFT there is before RL: fewer demonstrations, in as many steps; and none.
    for share in (0.03, 0.1, 0.3):
        name = f"{_WARM}_{round(100 * share)}"
        stages[name] = stages[_WARM].copy_and_resolve_references()
        stages[name].settings.share = share
        rows.append((f"SFT on {share:.0%} of the demonstrations", name, "", "SFT (warm start)"))
    rows.append(("baseline, after SFT on 10%", f"{_WARM}_10/rl_0", "", "baseline"))
    rows.append(("baseline, without SFT", "rl_0", "", "baseline"))
    config.stages = ConfigDict(stages)
    config.grid = ConfigDict({
        "seeds": (0, 1, 2),
        "at_once": 3,  # seeds side by side, a process each; 1 on an accelerator, which one process holds
        "columns": ("1", "2", "3", "4"),
        "rows": tuple(rows),
        "groups": tuple((title, ("baseline", *labels)) for title, labels in _groups(changes)),
    })
    return config


def _groups(changes):
    """Title and rows beside the baseline of each question: their curves stand in one chart."""
    yield "Masks", ("mixed masks from the start", "one mask only")
    yield "Answer reward", tuple(label for label in changes if label.startswith("reward"))
    yield "Sampling and clip", ("no dynamic sampling", "symmetric clip")
    yield "SFT before", ("baseline, after SFT on 10%", "baseline, without SFT")
