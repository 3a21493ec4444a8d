"""What DAPO keeps of its episodes: the same after a kill, whole groups, and the values that the update had."""

import json
import shutil
import sqlite3

import jax
import numpy as np
import pytest

from masksearch_jax.trainers import dapo, trajectory_sample
from masksearch_jax.trajectories.episode import read_body, unpack_arrays
from masksearch_jax.trajectories.store import EpisodeStore
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext
from tests.stored_episodes import episode, tokens


@pytest.fixture
def warm(cfg, workdir):
    context = RunContext(cfg, workdir)
    synthesis_stage.run(cfg, workdir, context.searcher("train"))
    cfg.sft.steps = cfg.sft.optimizer.total_steps = 6
    cfg.trajectories.update({"rate": 0.7, "after_update": True})
    cfg.dapo.dynamic_sampling = False
    cfg.dapo.iterations = 3
    return context, training.train_sft(context)


def finish(context, params):
    engine = context.engine("train", context.cfg.dapo.temperature)
    with jax.set_mesh(context.mesh):
        return dapo.run(context.cfg, context.workdir, context.policy, engine, params=params)


def contents(folder):
    db = sqlite3.connect(folder / "trajectories" / "episodes.sqlite")
    db.row_factory = sqlite3.Row
    found = {}
    for row in db.execute("SELECT * FROM episodes JOIN bodies USING (id) JOIN tokens USING (id)"):
        fields = dict(row)
        fields.pop("id")  # numbers of rows may differ
        fields["body"] = read_body(fields["body"])
        fields["sampled"] = unpack_arrays(fields["sampled"])
        fields["updated"] = fields["updated"] and unpack_arrays(fields["updated"])
        found[row["group"], row["sample"]] = fields
    db.close()
    return found


def readable(text):
    return "".join(char for char in text if " " <= char < "\x7f")


@pytest.mark.slow
def test_kept_episodes_are_those_of_an_uninterrupted_run_and_hold_what_the_update_had(warm):
    context, params = warm
    finish(context, params)
    (context.workdir / "dapo").rename(context.workdir / "whole")
    whole = contents(context.workdir / "whole")
    context.cfg.dapo.iterations = 2
    finish(context, params)
    # Killed in iteration 3 after it wrote its rows: no checkpoint holds them, so they are dropped and written again.
    shutil.copytree(
        context.workdir / "whole" / "trajectories", context.workdir / "dapo" / "trajectories", dirs_exist_ok=True
    )
    context.cfg.dapo.iterations = 3
    finish(context, params)
    assert contents(context.workdir / "dapo") == whole

    groups = {group for group, _ in whole}
    assert {(g, s) for g in groups for s in range(4)} == set(whole)
    assert groups == {g for g in range(max(groups) + 1) if trajectory_sample.is_chosen(g, 0.7)}
    trained = [fields for fields in whole.values() if fields["trained"]]
    assert trained
    for fields in whole.values():
        tokens, values = fields["sampled"], fields["updated"]
        n = len(tokens["ids"])
        assert len(tokens["texts"]) == len(tokens["sampler"]) == len(tokens["trainable"]) == n
        assert fields["tokens"] == sum(tokens["trainable"])
        assert all(low < 0 for low, own in zip(tokens["sampler"], tokens["trainable"], strict=True) if own)
        # An untrained policy writes bytes that are no text; SentencePiece replaces them otherwise than Python does.
        assert readable(fields["body"]["turns"][0]["text"]) in readable("".join(tokens["texts"]))
        assert "".join(tokens["texts"][: tokens["prompt"][0]]).strip().startswith(fields["title"][:10])
        if values:
            own = np.array(tokens["trainable"], bool)
            # sampler and trainer compute alike on one device; after the update the policy has moved
            np.testing.assert_allclose(np.array(values["trainer"])[own], np.array(tokens["sampler"])[own], atol=1e-3)
            assert not np.array(values["after"])[~own].any()
    by_advantage = [abs(np.array(f["updated"]["after"]) - np.array(f["updated"]["trainer"])).max() for f in trained]
    assert max(by_advantage) > 1e-4
    for group in groups:
        own = [whole[group, sample] for sample in range(4)]
        if own[0]["trained"]:
            order = np.argsort([f["reward"] for f in own], kind="stable")
            assert (np.diff(np.array([f["advantage"] for f in own])[order]) >= -1e-6).all()


def test_a_store_that_cannot_be_written_does_not_end_the_run(warm, caplog, monkeypatch):
    context, params = warm
    context.cfg.dapo.iterations = 1

    def full(*args):
        raise OSError("episodes.sqlite: database or disk is full")

    monkeypatch.setattr(trajectory_sample.EpisodeStore, "add", full)
    finish(context, params)
    assert "no more trajectories are kept: episodes.sqlite: database or disk is full" in caplog.text
    assert json.loads((context.workdir / "dapo" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 1


def test_a_file_system_without_sqlite_keeps_nothing_and_does_not_end_the_run(cfg, tmp_path, caplog, monkeypatch):
    def locked(*args):
        raise OSError("episodes.sqlite: locking protocol")

    monkeypatch.setattr(trajectory_sample.EpisodeStore, "cut", locked)
    kept = trajectory_sample.TrajectorySample(cfg, tmp_path, None, None, 0, 0)
    kept.cut(0, 0)
    assert "no more trajectories are kept: episodes.sqlite: locking protocol" in caplog.text


def test_rate_chooses_that_share_of_groups_and_the_same_ones():
    chosen = [group for group in range(10_000) if trajectory_sample.is_chosen(group, 0.1)]
    assert 900 < len(chosen) < 1100
    assert set(chosen) <= {group for group in range(10_000) if trajectory_sample.is_chosen(group, 0.2)}
    assert not trajectory_sample.is_chosen(3, 0.0) and all(trajectory_sample.is_chosen(g, 1.0) for g in range(100))


def test_episodes_that_a_rollback_makes_void_are_kept_beside_the_others(cfg, tmp_path):
    """A run that is killed between the rollback and the cut cuts at its next start; later starts only drop."""
    path = tmp_path / "trajectories" / "episodes.sqlite"
    cfg.trajectories.rate = 1.0

    def write_groups(groups):
        store = EpisodeStore(path)
        store.add((episode(group, 0, step=group + 1), tokens()) for group in groups)
        store.close()

    def groups_of(file):
        db = sqlite3.connect(file)
        found = [group for (group,) in db.execute('SELECT "group" FROM episodes ORDER BY "group"')]
        db.close()
        return found

    write_groups(range(4))
    for step, later in ((2, [4, 5]), (2, [6]), (3, [])):
        trajectory_sample.TrajectorySample(cfg, tmp_path, None, None, step, rollbacks=1).close()
        assert groups_of(tmp_path / "rollback-1" / "trajectories" / "episodes.sqlite") == [2, 3]
        assert groups_of(path) == [0, 1]
        write_groups(later)
    sample = trajectory_sample.TrajectorySample(cfg, tmp_path, None, None, 9, rollbacks=1)
    write_groups([7])
    sample.cut(7, 2)
    sample.close()
    assert groups_of(tmp_path / "rollback-2" / "trajectories" / "episodes.sqlite") == [7]
