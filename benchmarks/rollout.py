"""Measure the generated tokens per second of the rollout engine on the workload that the peers replay.

Prints one JSON line.

    python -m benchmarks.rollout                           128 episodes, lengths forced, random weights
    python -m benchmarks.rollout --search_ms=50            each search takes 50 ms: how long does the device wait?
    python -m benchmarks.rollout --groups=125 --rounds=1   1,000 episodes: does anything compile after warm-up?
    python -m benchmarks.rollout --peer='PYTHON FOLDER'    the peer's tunix_rollout.py in turn with ours; the ratio
    python -m benchmarks.rollout --pretrained=HF_FOLDER    32 episodes of a published model
    python -m benchmarks.rollout --pretrained=HF_FOLDER --peer='PYTHON FOLDER'   beside smollm2_hf_rollout.py

Both sides generate and append the same number of tokens in each turn, and one warm-up round is not counted. Ours also
computes the log-prob of every token, as RL needs it. Numbers of shared machines differ by the hour, so read the ratio.
Peak memory is that of the whole process, compilation included, and of the largest peer.
"""

import dataclasses
import functools
import json
import resource
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
from masksearch_jax.data.records import Task
from masksearch_jax.model import logprobs, transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import load
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import device_programs, episode
from masksearch_jax.rollout import engine as engines
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import StopReason, Trajectory
from masksearch_jax.runtime import cli
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.trainers import state

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured rounds.")
_SEARCH_MS = flags.DEFINE_float("search_ms", 0.0, "What each search takes, in milliseconds.")
_DEVICES = flags.DEFINE_integer("cpu_devices", 2, "Devices that a CPU host counts as.")
_SLOTS = flags.DEFINE_integer("slots", 0, "Episodes at a time; 0: 40, or 32 of a published model.")
_STEPS = flags.DEFINE_integer("steps", 8, "Decode steps per engine step.")
_SEARCH_STEPS = flags.DEFINE_integer(
    "search_steps", 1, "Engine steps that a search may take before the engine waits for it."
)
_CONTEXTS = flags.DEFINE_list("context_lengths", ["256", "384", "512", "640", "784"], "Where the cache is cut.")
_ROWS = flags.DEFINE_list("extend_rows", ["2", "4", "8"], "Rows of an append.")
_GROUPS = flags.DEFINE_integer("groups", 0, "Prompts, of 8 episodes each; 0: 16, or 4 of a published model.")
_LONGER = flags.DEFINE_integer("longer", 0, "Tokens added to every prompt, which the peer does not know.")
_PEER = flags.DEFINE_string("peer", "", "Python of the peer's environment and folder of its scripts: runs it in turn.")
_PRETRAINED = flags.DEFINE_string("pretrained", "", "Folder of a published model, instead of the small one.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "model.dtype of a published model.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Devices that a published model's weights are cut over.")

_TOTAL = 912  # tokens: the longest episode has 784, and the peer's cache has room for 128 more
_CHECKED = 16  # episodes whose log-probs are compared with one forward pass


class Ids:
    """A tokenizer of ids without text. Nothing that is sampled ends a turn, so that lengths are the workload's."""

    path, fingerprint = Path("ids"), "ids"
    pad_id, eos_id = 0, 2
    end_ids, prefix_ids = (), []

    def __init__(self, vocab_size: int):
        self.vocab_size, self.token_bytes = vocab_size, [b" "] * vocab_size

    def encode(self, text: str) -> list[int]:
        return []


class Scripted:
    """An episode whose turns have the workload's lengths, whatever the policy writes; see rollout.episode.Episode."""

    forced_query, answer = None, ""

    def __init__(self, script: workload.Episode, rng: np.random.Generator, vocab_size: int):
        self.turns: list = []
        self._left, self._rng, self._vocab_size = list(script.turns), rng, vocab_size

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
        return episode.Extend(_random_ids(self._rng, observed, self._vocab_size))


class Slow:
    """A searcher that finds nothing, and takes `seconds` for it."""

    fingerprint = "nothing"

    def __init__(self, seconds: float):
        self.seconds = seconds

    def search(self, queries, k):
        time.sleep(self.seconds)
        return [[] for _ in queries]


def _random_ids(rng, count, vocab_size):
    return rng.integers(3, vocab_size - 2, count).tolist()


@functools.cache
def _mesh() -> jax.sharding.Mesh:
    return mesh_lib.make_mesh(data=-1, fsdp=1, tensor=_TENSOR.value) if _PRETRAINED.value else mesh_lib.make_mesh()


def model() -> tuple[ModelConfig, transformer.Params]:
    """Return the small model with random weights, or the published one; parameters as rollouts read them."""
    if not _PRETRAINED.value:
        return workload.MODEL, transformer.init_params(workload.MODEL, 0, _mesh())
    cfg, params = load.load_pretrained(_PRETRAINED.value, _mesh(), dtype=_DTYPE.value)
    return cfg, jax.block_until_ready(state.decode_copy(cfg, _mesh())(params))


def requests(episodes: list[workload.Episode], vocab_size: int) -> list[Request]:
    rng, prompts = np.random.default_rng(0), {}
    found = []
    for number, one in enumerate(episodes):
        prompt = prompts.setdefault(one.group, _random_ids(rng, one.prompt, vocab_size))
        task = Task(str(number), "ramp", "train", prompt, [], "spans", [], [], "", "", "", -1, -1)
        found.append(Request(task, one.group, number, (number,)))
    return found


def engine(
    model_cfg: ModelConfig, episodes: list[workload.Episode], searcher: interface.Searcher
) -> engines.RolloutEngine:
    cfg = engines.RolloutConfig(
        slots=_SLOTS.value or (32 if _PRETRAINED.value else 40),
        limits=episode.EpisodeLimits(
            turns=8, turn_tokens=96, observation_tokens=128, total_tokens=_TOTAL + _LONGER.value
        ),
        sampling=device_programs.Sampling(),
        steps=_STEPS.value,
        hits=1,
        search_steps=_SEARCH_STEPS.value,
        search_threads=8,
        prompt_rows=8,
        prompt_lengths=(128 + _LONGER.value, 192 + _LONGER.value),
        extend_rows=tuple(map(int, _ROWS.value)),
        extend_tokens=(128,),
        context_lengths=tuple(map(int, _CONTEXTS.value)),
    )
    rng = np.random.default_rng(1)
    return engines.RolloutEngine(
        cfg,
        model_cfg,
        Ids(model_cfg.vocab_size),
        searcher,
        _mesh(),
        new_episode=lambda request, length: Scripted(episodes[request.sample], rng, model_cfg.vocab_size),
    )


def ours() -> tuple[Callable[[int], tuple[float, dict[str, float]]], Callable[[], float]]:
    """Return two functions, warmed up.

    The first runs round n and returns (tokens per second, the engine's statistics). The second returns by how much the
    log-probs of the last round are off.
    """
    groups = _GROUPS.value or (4 if _PRETRAINED.value else 16)
    episodes = [dataclasses.replace(one, prompt=one.prompt + _LONGER.value) for one in workload.episodes(groups)]
    wanted = sum(generated for one in episodes for generated, _ in one.turns)
    model_cfg, params = model()
    device = engine(model_cfg, episodes, Slow(_SEARCH_MS.value / 1000))
    work, found = requests(episodes, model_cfg.vocab_size), []
    device.warm_up(params)

    def run(number: int):
        nonlocal found
        began, busy = time.perf_counter(), time.process_time()
        found = device.run(params, work, version=0, seed=number)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        generated = sum(one.generated for one in found)
        if generated != wanted:
            raise ValueError(f"generated {generated} tokens, the workload has {wanted}")
        return generated / seconds, device.stats | {"cpu_s": busy}

    run(0)
    return run, lambda: disagreement(model_cfg, params, found[:_CHECKED])


def disagreement(model_cfg: ModelConfig, params, trajectories: list[Trajectory]) -> float:
    """Return the largest difference between the engine's log-probs and those of one forward pass over episodes."""
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
        hidden = transformer.forward(model_cfg, params, ids, positions, segments)
        return logprobs.token_logprobs(model_cfg, params, hidden, targets, 1.0, wanted=wanted)[0]

    expected = np.asarray(forward(params))
    return max(
        float(np.abs(expected[row, : len(one.ids) - 1] - one.logprobs[1:])[one.trainable[1:]].max())
        for row, one in enumerate(trajectories)
    )


def peer(python: str, folder: str) -> dict:
    """Run one round of the peer's script, after its own warm-up round; return the JSON line that it prints."""
    command = [python, "tunix_rollout.py"]
    if _PRETRAINED.value:
        command = [python, "smollm2_hf_rollout.py", _PRETRAINED.value, f"--groups={_GROUPS.value or 4}"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(_) -> None:
    cli.split_cpu(_DEVICES.value)
    run, check = ours()
    rates, ratios, compiles, shares, idle, tails, cpu = [], [], 0, [], [], [], []
    for number in range(1, _ROUNDS.value + 1):
        rate, stats = run(number)
        rates.append(rate)
        compiles += stats["compiles"]
        phases = ("prefill_s", "extend_s", "decode_s", "search_wait_s", "host_s")
        shares.append({name: stats[name] / stats["seconds"] for name in phases})
        idle.append(stats["idle_searching_s"] / (stats["seconds"] - stats["tail_s"]))
        tails.append((stats["tail_s"] / stats["seconds"], stats["tail_idle_searching_s"] / stats["tail_s"]))
        cpu.append(stats["cpu_s"])
        if _PEER.value:
            ratios.append(rate / peer(*_PEER.value.split())["tokens_per_s"])
        # A round of a published model takes minutes, so show each.
        print(f"round {number}: {rate:.1f} tokens/s", *map("beside the peer x {:.2f}".format, ratios[-1:]),
              file=sys.stderr)  # fmt: skip
    print(json.dumps({
        "benchmark": "rollout",
        "tokens_per_s": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(ratios), 2) if ratios else None,
        "ratios": [round(ratio, 2) for ratio in ratios],
        "cpu_s": round(statistics.median(cpu), 1),  # CPU seconds of a round, which other work hardly changes
        "compiles_after_warm_up": compiles,
        "shares": {name: round(statistics.median(s[name] for s in shares), 3) for name in shares[0]},
        "idle_while_searching": round(statistics.median(idle), 4),  # share of the time before the tail
        "tail": round(statistics.median(share for share, _ in tails), 4),  # time share of the last 10 % of episodes
        "logprob_max_diff": check(),
        "tail_idle_while_searching": round(statistics.median(share for _, share in tails), 4),
        "engine_steps": stats["engine_steps"],
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "peer_peak_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2) if ratios else None,
        "settings": {
            flag.name: flag.value
            for flag in (_SLOTS, _STEPS, _SEARCH_STEPS, _SEARCH_MS, _DEVICES, _ROUNDS, _CONTEXTS, _ROWS, _GROUPS,
                         _LONGER, _PRETRAINED, _DTYPE, _TENSOR)
        },
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
