"""Each alarm, provoked by rows as the trainers write them: when it starts and ends, what it says, what it remembers.

The last tests take the numbers of real training.
"""

import json
import math

import jax
import pytest

from configs import common
from masksearch_jax.runtime import metrics, stop_signals
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.trainers import alarms, sft
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext

GOOD = {
    "loss": 0.5, "entropy": 0.3, "generated_tokens": 60.0, "stop/turn_tokens": 0.0, "stop/total_tokens": 0.02,
    "kept_groups": 0.5, "reward_format": 0.95, "sampler_prob_diff": 1e-4, "sampler_correlation": 0.9999,
    "dropped_groups": 2.0, "batch_groups": 16.0, "skipped": 0.0, "rollout/tokens": 4000, "seconds/rollout": 8.0,
    "seconds/update": 2.0, "seconds/since_last": 50.0, alarms.DISK: 100.0,
}  # fmt: skip
BAD = {
    "entropy": ({"entropy": 0.002}, "0.002 nats per token, under alarms.entropy.threshold=0.01"),
    "length": ({"generated_tokens": 150.0}, "150 generated tokens, 2.5 times the median of the first rows, 60, over"),
    "truncation": ({"stop/turn_tokens": 0.5, "stop/total_tokens": 0.25}, "0.75 of all, over"),
    "reward_spread": ({"kept_groups": 0.0}, "groups whose rewards differ 0 of all, under"),
    "format": ({"reward_format": 0.125}, "format reward 0.125 of 1, under alarms.format.threshold=0.5"),
    "sampler_difference": ({"sampler_prob_diff": 0.05}, "0.05 on average, over alarms.sampler_difference.threshold"),
    "sampler_correlation": ({"sampler_correlation": 0.5}, "0.5 of 1, under alarms.sampler_correlation.threshold=0.99"),
    "dropped_groups": ({"dropped_groups": 48.0}, "0.75 of all, over alarms.dropped_groups.threshold=0.5"),
    "skipped": ({"skipped": 0.5}, "optimizer steps without an update 0.5 of all, over"),
    "loss": ({"loss": 2.0}, "loss 2 nats per token, 4 times the median of the rows before, 0.5, over"),
    "throughput": ({"seconds/rollout": 38.0}, "100 tokens per second, 0.25 times the median of the rows before, 400"),
    "disk": ({alarms.DISK: 1.5}, "1.5 GB, under alarms.disk.threshold=2"),
}  # fmt: skip


def of(kind="dapo", **changes):
    config = common.alarms()
    for name, change in changes.items():
        config[name].update(change)
    return alarms.Alarms(config, kind, "iteration")


def feed(watch, rows, start=1):
    return [verdict for step, row in enumerate(rows, start) for verdict in watch.judge(step, row)]


@pytest.mark.parametrize("name", [name for name in alarms.ALARMS if name != "search_errors"])
def test_an_alarm_starts_with_a_diagnosis_and_ends(name):
    change, says = BAD[name]
    watch = of(alarms.ALARMS[name].kinds[0])
    rows = [GOOD] * 20 + [GOOD | change] * 8 + [GOOD] * 30
    if alarms.ALARMS[name].kinds[0] == "sft":
        speeds = [{"tokens_per_s": row["rollout/tokens"] / (row["seconds/rollout"] + 2)} for row in rows]
        rows = [
            {k: v for k, v in row.items() if k != "rollout/tokens"} | speed
            for row, speed in zip(rows, speeds, strict=True)
        ]
    verdicts = feed(watch, rows)
    assert [(verdict.name, verdict.starts) for verdict in verdicts] == [(name, True), (name, False)]
    first, last = (verdict.sentence for verdict in verdicts)
    began = int(first.split(" iteration ")[1].split(":")[0])
    assert 20 < began <= 28 and f"alarm {name} starts at iteration" in first
    # The window is a mean that may be mixed when the alarm starts; filled with bad rows it is the number itself.
    window = common.alarms()[name].window
    full = of(alarms.ALARMS[name].kinds[0], **{name: {"window": 1}})
    (alone,) = [one.sentence for one in feed(full, rows) if one.starts]
    assert says in alone and f"alarms.{name}.threshold" in first
    assert "Likely cause: " in first and "Try next: " in first
    assert f"alarm {name} ends at iteration" in last and f"it was on since iteration {began}" in last
    assert window == 1 or began > 21  # one bad row is not enough


def test_failed_searches_are_counted_since_the_row_before():
    counts = ("queries", "fallbacks", "requests", "failures", "refusals")

    def row(*values):
        return {f"search/{name}": value for name, value in zip(counts, values, strict=True)}

    rows = [row(100, 0, 20, 0, 0), row(200, 0, 40, 0, 0), row(300, 5, 50, 2, 1), row(400, 45, 50, 2, 1)]
    (verdict,) = feed(of(search_errors={"window": 1}), rows)
    assert "searches that failed 0.3 of all, over alarms.search_errors.threshold=0.05" in verdict.sentence  # 3 of 10
    # The breaker is open: no request, and the fallback answers four of ten.
    (verdict,) = feed(of(search_errors={"window": 2, "threshold": 0.2}), rows)
    assert "searches that failed 0.35 of all" in verdict.sentence and "0.3, 0.4" in verdict.sentence
    assert not feed(of(), [{"search/queries": 10}] * 9)  # local search
    # A search of the user's own counts no refusals.
    own = [{name: value for name, value in one.items() if name != "search/refusals"} for one in rows]
    (verdict,) = feed(of(search_errors={"window": 1}), own)
    assert "searches that failed 0.2 of all, over" in verdict.sentence


def test_failures_of_a_tool_beside_the_search_are_watched_by_its_name():
    def row(step, failed):
        search = {"search/queries": 100 * step, "search/requests": 20 * step, "search/failures": 0}
        notes = {"queries": 10 * step, "fallbacks": failed, "requests": 10 * step, "failures": failed}
        return search | {f"search/notes/{name}": value for name, value in notes.items()} | {"search/open/queries": step}

    rows = [row(1, 0), row(2, 0), row(3, 5)]
    (verdict,) = feed(of(search_errors={"window": 1}), rows)
    assert "searches that failed 0.5 of all (the tool notes fails most), over" in verdict.sentence
    assert "search/<tool>/failures" in verdict.sentence
    # A local search beside it has nothing that can fail.
    alone = [{name: value for name, value in one.items() if name != "search/requests"} for one in rows]
    (verdict,) = feed(of(search_errors={"window": 1}), alone)
    assert "the tool notes fails most" in verdict.sentence
    joint = alarms.combine([one | {alarms.DISK: 1.0} for one in rows[1:]])
    assert joint["search/notes/failures"] == 5 and joint["search/notes/requests"] == 50


def test_nothing_is_said_before_a_window_is_full_and_of_alarms_that_are_off():
    bad = GOOD | {"entropy": 0.0}
    assert not feed(of(), [bad] * 4) and feed(of(), [bad] * 5)
    assert not feed(of(entropy={"action": "off"}), [bad] * 50)
    assert not feed(of("sft"), [bad] * 50)  # rows of SFT have no entropy
    assert not feed(of(), [{}] * 50)


def test_numbers_that_are_not_finite_are_bad():
    for value in (math.nan, math.inf, -math.inf):
        (verdict,) = feed(of(), [GOOD | {"sampler_correlation": value}])
        assert "of 1, under alarms.sampler_correlation.threshold" in verdict.sentence and "nan" in verdict.sentence


def test_the_row_that_holds_compilation_does_not_count_as_slow():
    slow = GOOD | {"seconds/rollout": 1000.0}
    watch = of(throughput={"window": 1})
    assert not feed(watch, [slow, *[GOOD] * 20])
    watch.started()
    assert not feed(watch, [slow], 22) and feed(watch, [slow], 23)


def test_windows_survive_a_resume_at_any_row():
    """The state goes through JSON, as in a checkpoint."""
    bad = {key: value for change, _ in BAD.values() for key, value in change.items()}
    rows = [GOOD] * 20 + [GOOD | bad] * 8 + [GOOD | {"entropy": math.nan}] * 2 + [GOOD] * 20
    whole, watch, found, states = of(), of(), [], []
    expected = []
    for step, row in enumerate(rows, 1):
        expected += whole.judge(step, row)
        found += watch.judge(step, row)
        states.append(json.dumps(watch.get_state(), allow_nan=False))
        watch = of()
        watch.set_state(json.loads(states[-1]))
        watch._started = False  # a resumed run leaves the time of its first row out; here every row counts
        assert states[-1] == json.dumps(whole.get_state())
    assert found == expected and len(found) > 15


def test_processes_judge_the_searches_of_all_and_the_fullest_disk():
    rows = [
        {"loss": 1.0, alarms.DISK: free, "search/queries": count, "search/failures": count}
        for free, count in ((50.0, 1), (3.0, 2))
    ]
    joint = alarms.combine(rows)
    assert joint["loss"] == 1.0 and joint[alarms.DISK] == 3.0
    assert joint["search/queries"] == joint["search/failures"] == 3


# --- in training -----------------------------------------------------------------------------------------------------


def run_sft(cfg, workdir):
    context = RunContext(cfg, workdir)
    with jax.set_mesh(context.mesh):
        return sft.run(cfg, workdir, context.policy)


def test_an_alarm_stops_a_run_which_goes_on_when_it_is_started_again(cfg, workdir, capsys):
    """A disk that fills, and a loss that does not fall: both by real numbers of SFT."""
    synthesis_stage.run(cfg, workdir, RunContext(cfg, workdir).searcher("train"))
    cfg.sft.update({"log_every": 1, "checkpoint_every": 100})
    cfg.alarms.disk.update({"threshold": 1e9, "window": 3, "action": "stop"})
    cfg.alarms.skipped.update({"threshold": 0.0, "window": 1})
    with pytest.raises(stop_signals.AlarmError, match="stopped by the alarm disk, .* saved step 3; .*action='log'"):
        run_sft(cfg, workdir)
    assert stop_signals.AlarmError.status == 3
    said = capsys.readouterr().err
    assert said.count("sft: alarm disk starts at step 3: free space of the workdir's file system") == 1
    assert Checkpointer(workdir / "sft" / "checkpoints", read_only=True).latest() == 3
    run_sft(cfg, workdir)  # the alarm is still on, which is known
    assert "alarm disk" not in capsys.readouterr().err
    assert training.finished(RunContext(cfg, workdir), "sft", cfg.sft.steps)
    rows = metrics.read_rows(workdir / "sft" / "metrics.jsonl")
    assert [row.get("alarm/disk") for row in rows] == [None, None, 1, 1, 1, 1]
    assert not any("alarm/skipped" in row for row in rows)
