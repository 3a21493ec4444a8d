"""Ablations of stage I by RL: each method changes one thing of the same baseline, and starts from the same warm start
unless the warm start is what changes.

Command:  python -m masksearch_jax.experiment --config=configs/ablations.py --workdir=runs/ablations
          python -m masksearch_jax.experiment --config=configs/ablations.py:judge --workdir=runs/ablations
              --config.llm.url=URL --config.llm.model=NAME             a model that judges answers as a reward as well
Hardware: two CPU cores.
Expect:   78 minutes with the judge's method; W/report.json, W/report.html with the curves of every cell, and the table
          of docs/results/ablations.md.

The baseline is DAPO with the settings of configs/dapo.py and fewer iterations. The columns are held-out RAMP tasks by
number of masks.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, dapo, table2

_WARM = "warm"
_ITERATIONS = 20
_MIXED = ((None, (("ramp_1", 0.4), ("ramp_2", 0.3), ("ramp_3", 0.2), ("ramp_4", 0.1))),)
_STAGED = ((300, (("ramp_1", 1.0),)), (300, (("ramp_1", 0.5), ("ramp_2", 0.5))), (None, _MIXED[0][1]))
# label -> settings that differ from the baseline
_CHANGES = {
    "mixed masks from the start": {"curriculum": _MIXED},
    "one mask only": {"curriculum": ((None, (("ramp_1", 1.0),)),)},
    "reward: recall": {"reward": {"answer": "recall"}},
    "reward: recall, any length": {"reward": {"answer": "recall", "overlong_limit": 0}},
    # Every group is trained on, in as many mini-batches. `generations_of` (below) sets the number of iterations to the
    # number of rollout batches that the baseline generated.
    "no dynamic sampling": {"dynamic_sampling": False, "max_generations": 1, "groups": 32, "micro_batches": (3, 8, 16)},
    "symmetric clip": {"clip_high": 0.2},
}

VARIANTS = ("judge",)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    changes = _CHANGES | ({"reward: judge": {"reward": {"answer": "judge"}}} if arg == "judge" else {})
    config = dapo.get_config()
    config.workflow = "grid"
    config.synthesize.probe_tasks = 0
    config.evaluate.episodes.update({"ramp_1": 400, "ramp_2": 200, "ramp_3": 100, "ramp_4": 100, "qa": 0})
    config.evaluate.benchmarks.update(dict.fromkeys(config.evaluate.benchmarks, 0))
    mixture = (("ramp_1", 0.55), ("ramp_2", 0.33), ("ramp_3", 0.09), ("ramp_4", 0.03))
    stages = {_WARM: table2.sft(600, mixture, first=((1500, (("ramp_1", 1.0),)),))}
    # A method that learns nothing is a result here, so iterations without an update never end its run.
    baseline = {"iterations": _ITERATIONS, "eval_every": 0, "curriculum": _STAGED, "max_without_update": 0}
    methods = [("SFT (warm start)", _WARM, "", ""), ("baseline", f"{_WARM}/rl_0", "", "SFT (warm start)")]
    for number, change in enumerate([{}, *changes.values()]):
        stages[f"rl_{number}"] = ConfigDict({"kind": "dapo", "settings": baseline | change})
        if not change.get("dynamic_sampling", True):
            stages[f"rl_{number}"].generations_of = f"{_WARM}/rl_0"
    methods += [(label, f"{_WARM}/rl_{number}", "", "baseline") for number, label in enumerate(changes, start=1)]
    # How much SFT comes before RL: fewer demonstrations with the same number of steps, and none at all.
    for share in (0.03, 0.1, 0.3):
        name = f"{_WARM}_{round(100 * share)}"
        stages[name] = stages[_WARM].copy_and_resolve_references()
        stages[name].settings.share = share
        methods.append((f"SFT on {share:.0%} of the demonstrations", name, "", "SFT (warm start)"))
    methods.append(("baseline, after SFT on 10%", f"{_WARM}_10/rl_0", "", "baseline"))
    methods.append(("baseline, without SFT", "rl_0", "", "baseline"))
    config.stages = ConfigDict(stages)
    config.grid = ConfigDict({
        "seeds": (0, 1, 2),
        "at_once": 3,  # seeds run in parallel, one process each; 1 on an accelerator, which only one process can hold
        "columns": ("1", "2", "3", "4"),
        "methods": tuple(methods),
        "groups": tuple((title, ("baseline", *labels)) for title, labels in _groups(changes)),
    })
    return config


def _groups(changes):
    """Yield (title, method labels) of each group. A chart shows the curves of a group together with the baseline's."""
    yield "Masks", ("mixed masks from the start", "one mask only")
    yield "Answer reward", tuple(label for label in changes if label.startswith("reward"))
    yield "Sampling and clip", ("no dynamic sampling", "symmetric clip")
    yield "SFT before", ("baseline, after SFT on 10%", "baseline, without SFT")
