"""The page of the drills' run, as `--config` takes it."""

from benchmarks.drills import toy


def get_config():
    config = toy.drill_config()
    config.policy = "dapo"
    return config
