"""Rollouts: generated tokens a second of the engine on the workload that the peers replay. Prints one JSON line.

    python -m benchmarks.rollout                           128 episodes, lengths forced, random weights
    python -m benchmarks.rollout --search_ms=50            each search takes 50 ms: how long does the device wait?
    python -m benchmarks.rollout --groups=125 --rounds=1   1,000 episodes: does anything compile after warm-up?
    python -m benchmarks.rollout --peer='PYTHON FOLDER'    the peer's tunix_rollout.py in turn with ours; the ratio

Both sides generate and append the same number of tokens in each turn, and one warm-up round is not counted. Ours also
computes the log-prob of every token, as RL needs it. Numbers of shared machines differ by the hour: read the ratio.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from benchmarks import workload
from masksearch_jax import sharding
from masksearch_jax.data.records import Task
from masksearch_jax.model import logprobs, transformer
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import decode, episode
from masksearch_jax.rollout import engine as engines
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import StopReason, Trajectory

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds.")
_SEARCH_MS = flags.DEFINE_float("search_ms", 0.0, "What each search takes, in milliseconds.")
_DEVICES = flags.DEFINE_integer("cpu_devices", 2, "Devices that a CPU host counts as.")
_SLOTS = flags.DEFINE_integer("slots", 40, "Episodes at a time.")
_STEPS = flags.DEFINE_integer("steps", 8, "Decode steps per tick.")
_TICKS = flags.DEFINE_integer("search_ticks", 1, "Ticks that a search may take before the engine waits for it.")
_CONTEXTS = flags.DEFINE_list("context_lengths", ["256", "384", "512", "640", "784"], "Where the cache is cut.")
_ROWS = flags.DEFINE_list("append_rows", ["2", "4", "8"], "Rows of an append.")
_GROUPS = flags.DEFINE_integer("groups", 16, "Prompts, of 8 episodes each; the peer knows 16.")
_LONGER = flags.DEFINE_integer("longer", 0, "Tokens added to every prompt, which the peer does not know.")
_PEER = flags.DEFINE_string("peer", "", "Python of the peer's environment and folder of its scripts: runs it in turn.")

_TOTAL = 912  # the longest episode has 784, and the peer's cache 128 more
_CHECKED = 16  # episodes whose log-probs are held against one forward pass


class Ids:
    """A tokenizer of ids without text: nothing that is sampled ends a turn, so that lengths are the workload's."""

    path, fingerprint = Path("ids"), "ids"
    vocab_size, pad_id, eos_id = workload.MODEL.vocab_size, 0, 2
    end_ids, prefix_ids = (), []
    token_bytes = [b" "] * workload.MODEL.vocab_size

    def encode(self, text: str) -> list[int]:
        return []


class Scripted:
    """An episode whose turns have the workload's lengths, whatever is written; see rollout.episode.Episode."""

    forced_query, answer = None, ""

    def __init__(self, script: workload.Episode, rng: np.random.Generator):
        self.turns: list = []
        self._left, self._rng = list(script.turns), rng

    @property
    def budget(self) -> int:
        return self._left[0][0]

    def end_turn(self, ids, ending):
        if len(ids) != self.budget:
            raise ValueError(f"a turn of {self.budget} tokens came out with {len(ids)}")
        if len(self._left) == 1:
            return episode.Done(StopReason.ANSWER)
        return episode.Search("anything")

    def observe(self, hits):
        (_, observed), *self._left = self._left
        return episode.Append(_random_ids(self._rng, observed))


class Slow:
    """Finds nothing, and takes `seconds` for it."""

    fingerprint = "nothing"

    def __init__(self, seconds: float):
        self.seconds = seconds

    def search(self, queries, k):
        time.sleep(self.seconds)
        return [[] for _ in queries]


def _random_ids(rng, count):
    return rng.integers(3, workload.MODEL.vocab_size - 2, count).tolist()


def requests(episodes: list[workload.Episode]) -> list[Request]:
    rng, prompts = np.random.default_rng(0), {}
    found = []
    for number, one in enumerate(episodes):
        prompt = prompts.setdefault(one.group, _random_ids(rng, one.prompt))
        task = Task(str(number), "ramp", "train", prompt, [], "spans", [], [], "", "", "", -1, -1)
        found.append(Request(task, one.group, number, (number,)))
    return found


def engine(episodes: list[workload.Episode], searcher: interface.Searcher) -> engines.RolloutEngine:
    cfg = engines.RolloutConfig(
        slots=_SLOTS.value,
        limits=episode.EpisodeLimits(
            turns=8, turn_tokens=96, observation_tokens=128, total_tokens=_TOTAL + _LONGER.value
        ),
        sampling=decode.Sampling(),
        steps=_STEPS.value,
        hits=1,
        search_ticks=_TICKS.value,
        search_threads=8,
        prompt_rows=8,
        prompt_lengths=(128 + _LONGER.value, 192 + _LONGER.value),
        append_rows=tuple(map(int, _ROWS.value)),
        append_tokens=(128,),
        context_lengths=tuple(map(int, _CONTEXTS.value)),
    )
    rng = np.random.default_rng(1)
    return engines.RolloutEngine(
        cfg,
        workload.MODEL,
        Ids(),
        searcher,
        sharding.make_mesh(),
        new_episode=lambda request, length: Scripted(episodes[request.sample], rng),
    )


def ours() -> tuple[Callable[[int], tuple[float, dict[str, float]]], Callable[[], float]]:
    """Returns two functions: one that runs round n -> (tokens a second, the engine's statistics), warmed up; and one
    that tells by how much log-probs of the last round are off."""
    episodes = [
        dataclasses.replace(one, prompt=one.prompt + _LONGER.value) for one in workload.episodes(_GROUPS.value)
    ]
    wanted = sum(generated for one in episodes for generated, _ in one.turns)
    device = engine(episodes, Slow(_SEARCH_MS.value / 1000))
    params = transformer.init_params(workload.MODEL, 0, device.mesh)
    work, found = requests(episodes), []
    device.warm_up(params)

    def run(number: int):
        nonlocal found
        began = time.perf_counter()
        found = device.run(params, work, version=0, seed=number)
        seconds = time.perf_counter() - began
        generated = sum(one.generated for one in found)
        if generated != wanted:
            raise ValueError(f"generated {generated} tokens, the workload has {wanted}")
        return generated / seconds, device.stats

    run(0)
    return run, lambda: disagreement(params, found[:_CHECKED])


def disagreement(params, trajectories: list[Trajectory]) -> float:
    """The largest difference between the engine's log-probs and those of one forward pass over whole episodes."""
    width = max(len(one.ids) for one in trajectories)
    shape = (len(trajectories), width)
    ids, targets, segments = (np.zeros(shape, np.int32) for _ in range(3))
    wanted = np.zeros(shape, bool)
    for row, one in enumerate(trajectories):
        size = len(one.ids)
        ids[row, :size], targets[row, : size - 1], segments[row, :size] = one.ids, one.ids[1:], 1
        wanted[row, : size - 1] = one.trainable[1:]

    @jax.jit
    def forward(params):
        positions = np.broadcast_to(np.arange(width, dtype=np.int32), shape)
        hidden = transformer.forward(workload.MODEL, params, ids, positions, segments)
        return logprobs.token_logprobs(workload.MODEL, params, hidden, targets, 1.0, wanted=wanted)[0]

    expected = np.asarray(forward(params))
    return max(
        float(np.abs(expected[row, : len(one.ids) - 1] - one.logprobs[1:])[one.trainable[1:]].max())
        for row, one in enumerate(trajectories)
    )


def peer(python: str, folder: str) -> dict:
    """One round of the peer's script, after its own warm-up round."""
    done = subprocess.run([python, "tunix_rollout.py"], cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(_) -> None:
    jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    run, check = ours()
    rates, ratios, compiles, shares, idle, tails = [], [], 0, [], [], []
    for number in range(1, _ROUNDS.value + 1):
        rate, stats = run(number)
        rates.append(rate)
        compiles += stats["compiles"]
        phases = ("prefill_s", "append_s", "decode_s", "search_wait_s", "host_s")
        shares.append({name: stats[name] / stats["seconds"] for name in phases})
        idle.append(stats["idle_searching_s"] / (stats["seconds"] - stats["tail_s"]))
        tails.append((stats["tail_s"] / stats["seconds"], stats["tail_idle_searching_s"] / stats["tail_s"]))
        if _PEER.value:
            ratios.append(rate / peer(*_PEER.value.split())["tokens_per_s"])
    print(json.dumps({
        "benchmark": "rollout",
        "tokens_per_s": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(ratios), 2) if ratios else None,
        "ratios": [round(ratio, 2) for ratio in ratios],
        "compiles_after_warm_up": compiles,
        "shares": {name: round(statistics.median(s[name] for s in shares), 3) for name in shares[0]},
        "idle_while_searching": round(statistics.median(idle), 4),  # share of the time before the tail
        "tail": round(statistics.median(share for share, _ in tails), 4),  # last 10 % of episodes, of all time
        "logprob_max_diff": check(),
        "tail_idle_while_searching": round(statistics.median(share for _, share in tails), 4),
        "ticks": stats["ticks"],
        "settings": {
            flag.name: flag.value
            for flag in (_SLOTS, _STEPS, _TICKS, _SEARCH_MS, _DEVICES, _ROUNDS, _CONTEXTS, _ROWS, _GROUPS, _LONGER)
        },
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
