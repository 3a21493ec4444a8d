"""The soak's verdicts: what grows is told from what moves."""

import json
import random

import pytest

from benchmarks import soak


def samples(count=200, **growing):
    """Samples of a run: everything moves a little around its level; growing: {name: by how much in all}."""
    rng = random.Random(0)
    levels = {"resident": 600e6, "python_blocks": 2e6, "files": 40, "threads": 60, "compiled": 80, "arrays": 900,
              "array_bytes": 50e6, "searches_out": 2, "cache_bytes": 250e3}  # fmt: skip
    moves = {"resident": 5e6, "python_blocks": 5000, "files": 1, "threads": 1, "searches_out": 2, "array_bytes": 3e5}
    return [
        {"seconds": 5.0 * i, "iteration": i // 2}
        | {
            name: level + growing.get(name, 0.0) * i / count + round(moves.get(name, 0) * rng.random())
            for name, level in levels.items()
        }
        for i in range(count)
    ]


def test_a_run_that_moves_is_flat():
    assert all(one.flat for one in soak.judged(soak.after_warm_up(samples(), 0.3)))


@pytest.mark.parametrize(
    "name, by", [("resident", 150e6), ("python_blocks", 2e5), ("files", 20), ("threads", 20), ("compiled", 9),
                 ("arrays", 200), ("array_bytes", 20e6), ("cache_bytes", 1e6)],
)  # fmt: skip
def test_what_grows_is_named(name, by):
    warm = soak.after_warm_up(samples(**{name: by}), 0.3)
    assert [one.series.name for one in soak.judged(warm) if not one.flat] == [name]
    assert soak.table(soak.judged(warm)).count("GROWS") == 1


def test_too_few_samples_are_told():
    with pytest.raises(ValueError, match="4 samples after warm-up, 10 are needed"):
        soak.judged(samples(4))


def test_the_plot_and_the_log(tmp_path):
    made = samples()
    drawn = soak.plot(made, soak.after_warm_up(made, 0.3))
    assert drawn.startswith("<svg") and "resident" in drawn and "python_blocks" in drawn
    log = tmp_path / "metrics.jsonl"
    assert soak._last_step(log) == 0
    log.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(5000)) + '{"step": 9')
    assert soak._last_step(log) == 4999


def test_the_settings_of_the_soak_are_ones_that_a_run_takes(tmp_path):
    from masksearch_jax.workflows import training

    training.validate_training(soak.config())


def test_a_sample_has_every_series(tmp_path):
    sampler = soak.Sampler(tmp_path / "soak.jsonl", tmp_path, 60.0)
    found = sampler.sample()
    assert {one.name for one in soak.SERIES} <= found.keys() and found["resident"] > 1e7 and found["iteration"] == 0
