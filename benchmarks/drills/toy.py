"""A run so small that it takes seconds: settings for the tests of trainers, and configs for whole processes.

`python -m masksearch_jax.train --config=benchmarks/drills/page.py` trains on a toy encyclopedia of 240 articles.
"""

from ml_collections import ConfigDict


def small_config() -> ConfigDict:
    """Return the config of DAPO with everything small; one device."""
    from configs import dapo

    config = dapo.get_config()
    config.mesh.data = 1
    config.model.update({"layers": 2, "embed": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 48})
    config.episode.update({"turns": 3, "turn_tokens": 12, "observation_tokens": 32, "total_tokens": 160})
    config.rollout.update({
        "slots": 16,
        "steps": 4,
        "extend_rows": (8,),
        "extend_tokens": (32,),
        "prompt_lengths": (48,),
    })
    config.synthesize.update({"association_tasks": 40, "probe_tasks": 20})
    config.synthesize.examples.update({"ramp_1": 40, "ramp_2": 20, "ramp_3": 0, "ramp_4": 0})
    config.validation_episodes = 4
    config.sft.update({
        "steps": 6,
        "rows": 4,
        "row_length": 160,
        "eval_every": 0,
        "log_every": 2,
        "checkpoint_every": 3,
    })
    config.sft.curriculum = ((20, (("ramp_1", 1.0),)), (None, (("ramp_1", 0.5), ("ramp_2", 0.5))))
    config.sft.optimizer.update({"warmup": 1, "total_steps": 6})
    config.dapo.update({
        "iterations": 4, "prompts": 4, "group_size": 4, "groups": 2, "max_generations": 2, "minibatches": 2,
        "row_lengths": (160,), "rows": 4, "micro_batches": (1, 2, 4), "eval_every": 0, "checkpoint_every": 2,
        "curriculum": ((8, (("ramp_1", 1.0),)), (None, (("ramp_1", 0.5), ("ramp_2", 0.5)))),
    })  # fmt: skip
    config.dapo.reward.update({"overlong_limit": 36, "overlong_cache": 12})
    return config


def drill_config() -> ConfigDict:
    """Return the settings of a whole run, from a toy of 240 articles to its evaluation, with checkpoints on the way."""
    config = small_config()
    config.cpu_devices = 1
    config.prepare.update({"entities": 240, "toy_benchmarks": 0})
    config.prepare.tasks.epochs = 1
    config.prepare.retrieval.update({"index": "exact", "dims": 256})
    config.sft.update({"steps": 12, "checkpoint_every": 4, "log_every": 3, "eval_every": 5})
    config.dapo.update({"iterations": 6, "eval_every": 3, "dynamic_sampling": False, "carry_over": True})
    config.validation_tasks = ("ramp_1",)
    config.evaluate.episodes.update(dict.fromkeys(config.evaluate.episodes, 0) | {"ramp_1": 12})
    return config
