"""Self-evolving distillation: each round's policy writes demonstrations of more and harder tasks for the next round
(paper, section 2.2).

Command:  python -m masksearch_jax.experiment --config=configs/evolve.py --workdir=runs/evolve
Hardware: two CPU cores.
Expect:   W/report.json and a table with acceptance and held-out recall of each round; docs/results/quickstart.md,
          "Self-evolving distillation".
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, sft


def get_config(arg: str = ""):
    common.check_argument(__file__, arg)
    config = sft.get_config()
    config.workflow = "evolve"
    # The first teacher: demonstrations of the rules, few and easy.
    config.synthesize.examples.update({"ramp_1": 2000, "ramp_2": 300, "ramp_3": 0, "ramp_4": 0})
    config.synthesize.probe_tasks = 0
    config.sft.update({"steps": 600, "eval_every": 0})
    config.sft.curriculum = ((None, (("ramp_1", 0.9), ("ramp_2", 0.1))),)
    config.sft.optimizer.update({"total_steps": 600})
    config.evolve = ConfigDict({
        # One entry per round: ((task, how many to try), ..). The set of demonstrations grows and gets harder.
        "rounds": (
            (("ramp_1", 1000), ("ramp_2", 500)),
            (("ramp_1", 1000), ("ramp_2", 1000), ("ramp_3", 500)),
            (("ramp_1", 1000), ("ramp_2", 1500), ("ramp_3", 1000), ("ramp_4", 500)),
        ),
        "samples": 4,  # trajectories for each task
        "keep": 1,  # trajectories kept per task, at most
        "judge": "rules",  # who accepts answers: rules (`recall`) | llm (asks `llm`; docs/guides/agents.md)
        "recall": 1.0,  # least recall of an accepted answer
        "judging": ConfigDict({"timeout_s": 20.0, "retries": 2, "attempts": 2}),  # limits of one verdict of the llm
        "temperature": 1.0,  # of sampling trajectories
        "steps": 300,  # SFT steps of a round, on the whole set, from the previous round's policy
        "control": False,  # True: also train the previous round's policy for as many steps on the set that it had
        "learning_rate_scale": 0.5,  # times the SFT learning rate of this config; each round runs the whole schedule
    })
    config.evaluate.episodes.update({"ramp_1": 600, "ramp_2": 300, "ramp_3": 200, "ramp_4": 200, "qa": 0})
    return config
