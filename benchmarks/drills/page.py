"""The config of a run of the drills, as a file for `--config`."""

from benchmarks.drills import toy


def get_config():
    config = toy.drill_config()
    config.policy = "dapo"
    return config
