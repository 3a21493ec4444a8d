"""Observations that several slots read after the same context: read once, and copied without a change of any result."""

import dataclasses

import jax
import numpy as np
import pytest

from masksearch_jax.model import flops, transformer
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout import bucketing
from masksearch_jax.runtime import mesh as mesh_lib

# One word is the first query, so that of eight samples some ask the same and others do not.
SEARCHES = {
    "*": {"<search>": 1.0},
    "<search>": {"q": 1.0},
    "q": {"</search>": 1.0},
    "</information>": {"<search>": 0.5, "<answer>": 0.5},
    "<answer>": {"a": 1.0},
    "a": {"a": 0.5, "</answer>": 0.5},
}
MISTAKES = SEARCHES | {"*": {"q": 1.0}, "q": {"</answer>": 1.0}, "<search>": {"a": 1.0}}


def outcomes(trajectories):
    """Everything about trajectories, with the bits of their log-probs."""
    return [
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(t).items()}
        for t in trajectories
    ]


def observations(trajectories):
    """(number of first token, tokens up to the end) of every observation that was read."""
    found = []
    for t in trajectories:
        ends = [turn.start for turn in t.turns[1:]]
        found += [(turn.end, t.ids[:end].tobytes()) for turn, end in zip(t.turns, ends, strict=False)]
    return found


def run_both(engine, monkeypatch, *arguments, **named):
    """Return what a run with copies and one without give: ((trajectories, statistics), (trajectories, statistics))."""
    shared = engine.run(*arguments, **named), engine.stats
    with monkeypatch.context() as patch:
        patch.setattr(bucketing, "padded_tokens", lambda calls: 0)  # copies never save anything
        apart = engine.run(*arguments, **named), engine.stats
    assert apart[1]["copied_extends"] == 0
    return shared, apart


@pytest.mark.parametrize("rows", [SEARCHES, MISTAKES], ids=["searches", "mistakes"])
def test_equal_observations_are_read_once_and_nothing_else_changes(world, monkeypatch, rows):
    engine = world.engine(slots=16, extend_rows=(1,), extend_tokens=(24,), limits={"turns": 3})
    requests = world.requests(2, samples=8)
    (found, stats), (apart, before) = run_both(engine, monkeypatch, world.params(rows), requests, version=3, seed=5)
    assert outcomes(found) == outcomes(apart)
    read = observations(found)
    # All start together, so equal tokens are read in the same engine step.
    assert before["extends"] == len(read) and stats["extends"] == len(set(read))
    assert stats["copied_extends"] == len(read) - len(set(read))
    assert 6 < len(set(read)) < len(read) - 6
    assert stats["tokens"] == before["tokens"] and stats["searches"] == before["searches"]


@pytest.mark.parametrize(
    "fields",
    [
        {"slots": 5, "extend_tokens": (5,), "search_steps": 2},  # an observation takes several programs
        pytest.param(
            {"extend_tokens": (5, 16), "extend_rows": (2, 4), "context_lengths": (45,)}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_no_shape_of_programs_changes_a_result(world, monkeypatch, fields):
    engine = world.engine(**{"slots": 8, "extend_rows": (2,)} | fields)
    arguments = world.params(SEARCHES), world.requests(3, samples=6)
    (found, stats), (apart, before) = run_both(engine, monkeypatch, *arguments, version=0, seed=1)
    assert stats["copied_extends"] > 0 and stats["extends"] <= before["extends"]
    assert outcomes(found) == outcomes(apart)


def test_permuted_tokens_and_forced_searches(world, monkeypatch):
    """Samples of one permutation share, those of another do not; a forced search is shared by the whole group."""
    permutation = np.arange(world.tokenizer.vocab_size)
    words = world.ids("q") + world.ids("a")
    permutation[words] = np.random.default_rng(0).permutation(words)
    requests = world.requests(1, samples=8, forced_search="Karn near Velith")
    requests[4:] = [dataclasses.replace(request, token_permutation=permutation) for request in requests[4:]]
    engine = world.engine(slots=8, extend_rows=(1,), limits={"observation_tokens": 40})
    arguments = world.params(SEARCHES), requests
    (found, stats), (apart, _) = run_both(engine, monkeypatch, *arguments, version=0, seed=2)
    assert outcomes(found) == outcomes(apart)
    assert stats["copied_extends"] == 6 and len({t.ids.tobytes() for t in found}) > 4


def test_greedy_duplicates_are_read_once(world, monkeypatch):
    once = world.requests(2)
    twice = [dataclasses.replace(request, group=request.group + 2, key=(9, request.group)) for request in once]
    engine = world.engine(extend_rows=(1,), extend_tokens=(24,))
    arguments = world.params(SEARCHES), [*once, *twice]
    (found, stats), (apart, before) = run_both(engine, monkeypatch, *arguments, version=0, seed=0, greedy=True)
    assert outcomes(found) == outcomes(apart)
    assert 2 * stats["extends"] == 2 * stats["copied_extends"] == before["extends"] > 0


def test_equal_contexts_with_unequal_observations_are_not_shared(world):
    class Fickle:
        fingerprint = "fickle"

        def search(self, queries, k):
            return [[Hit(n, n, "Karn", f"{world.texts[n]}", 1.0)] for n, _ in enumerate(queries)]

    requests = world.requests(1, samples=4, forced_search="Karn")
    engine = world.engine(Fickle(), extend_rows=(1,))
    found = engine.run(world.params(SEARCHES), requests, version=0, seed=0)
    assert len({turn.observation for t in found for turn in t.turns[:1]}) == 4
    assert engine.stats["copied_extends"] == 0


def test_equal_observations_after_unequal_contexts_are_not_shared(world):
    engine = world.engine(extend_rows=(1,))
    found = engine.run(world.params(SEARCHES), world.requests(4, forced_search="Karn"), version=0, seed=0)
    assert len({turn.observation for t in found for turn in t.turns[:1]}) == 1
    assert engine.stats["copied_extends"] == 0


def test_nothing_is_copied_where_a_program_has_room_for_all(world):
    """Two rows of a program of four cost what one row costs, so a copy would only add work."""
    engine = world.engine(extend_rows=(4,))
    for samples, copied in ((2, 0), (4, 0)):
        requests = world.requests(1, samples=samples, forced_search="Karn")
        engine.run(world.params(SEARCHES), requests, version=0, seed=0)
        assert engine.stats["copied_extends"] == copied
    engine = world.engine(slots=8, extend_rows=(4,), extend_tokens=(64,))
    engine.run(world.params(SEARCHES), world.requests(1, samples=5, forced_search="Karn"), version=0, seed=0)
    assert engine.stats["copied_extends"] == 4 and engine.stats["extends"] == 1


def test_flops_count_what_was_computed(world, monkeypatch):
    engine = world.engine(slots=8, extend_rows=(1,), extend_tokens=(64,))
    requests = world.requests(1, samples=5, forced_search="Karn")
    (found, stats), (_, before) = run_both(engine, monkeypatch, world.params(SEARCHES), requests, version=0, seed=0)
    assert stats["copied_extends"] == 4
    first, end = found[0].prompt_length - 1, found[0].turns[1].start
    load = flops.of_sequences(world.model_cfg, np.full(4, end), 0, known=first)
    assert before["flops"] - stats["flops"] == pytest.approx(flops.forward(world.model_cfg, load), rel=1e-9)


def test_shards_copy_their_own_slots(world):
    mesh, plain = mesh_lib.make_mesh(2, 1, 2, devices=jax.devices()[:4]), world.params(SEARCHES)
    params = mesh_lib.reshard(plain, transformer.param_shardings(world.model_cfg, mesh, mesh_lib.DECODE))
    requests = world.requests(2, samples=6, forced_search="Karn near Velith")
    expected = world.engine().run(plain, requests, version=0, seed=0)
    engine = world.engine(mesh=mesh, slots=16, prompt_rows=4, extend_rows=(4,))
    engine.warm_up(params)
    found = engine.run(params, requests, version=0, seed=0)
    # Each of the two shards reads the observation of each of the two groups once.
    assert engine.stats["copied_extends"] == 12 - 2 * 2 and engine.stats["compiles"] == 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
        assert ours.turns == theirs.turns
