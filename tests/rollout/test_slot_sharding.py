"""Slots and their owners; and one rollout over several processes on loopback against the same in one."""

import collections
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from masksearch_jax.rollout import slot_sharding
from masksearch_jax.runtime import mesh as mesh_lib

ROOT = Path(__file__).parent.parent.parent
DEVICES = 4


def test_slots_follow_the_shards():
    found = slot_sharding.SlotSharding(mesh_lib.make_mesh(2, 2, 2), 8)
    assert found.own.all() and not found.several
    assert found.order == [0, 2, 4, 6, 1, 3, 5, 7]  # one of each shard in turn
    assert slot_sharding.SlotSharding(mesh_lib.make_mesh(1, 1, 1), 4).order == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="rollout.slots=6 does not divide over 4 shards"):
        slot_sharding.SlotSharding(mesh_lib.make_mesh(2, 2, 2), 6)


def test_lists_of_several_processes_are_gathered():
    """With one process in place of several: what goes through the devices comes back, cut to its length."""
    found = slot_sharding.SlotSharding(mesh_lib.make_mesh(2, 2, 2), 8)
    lists = {5: np.array([1, 2, 3, 4, 5], np.int32), 0: np.array([7], np.int32)}
    lengths = {slot: len(values) for slot, values in lists.items()}
    for found.several in (False, True):
        gathered = found.gather_lists(lists, lengths)
        assert list(gathered) == [0, 5] and all(np.array_equal(gathered[slot], lists[slot]) for slot in lists)
    rows = np.arange(16).reshape(8, 2)
    assert np.array_equal(found.gather(rows), rows)


def test_a_slot_has_one_owner():
    Device = collections.namedtuple("Device", "id process_index")

    def layout(processes):
        """Four shards of two slots, each on two devices."""
        devices = {
            Device(number, process): (slice(number // 2 * 2, number // 2 * 2 + 2),)
            for number, process in enumerate(processes)
        }
        return types.SimpleNamespace(devices_indices_map=lambda shape: devices)

    assert slot_sharding.owned(layout([0, 0, 0, 0, 1, 1, 1, 1]), 8).tolist() == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="slots 2 to 3 lie on devices of several processes"):
        slot_sharding.owned(layout([0, 0, 0, 1, 1, 1, 1, 1]), 8)


WORKER = """
import json, sys
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
import conftest, jax, numpy as np
from ml_collections import ConfigDict
from masksearch_jax.runtime import distributed, mesh as mesh_lib

folder, count, number, coordinator = Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4]
settings = ConfigDict(dict(coordinator=coordinator, processes=count, process_id=number,
                           timeout_s=120, heartbeat_s=60, stall_s=300))
with distributed.processes(settings):
    world = conftest.make_world(folder / "tokenizer.model")
    mesh = mesh_lib.make_mesh(data=2, fsdp=-1)
    params = distributed.put(jax.tree.map(np.asarray, world.params(conftest.MIXED)), mesh_lib.replicated(mesh))
    permutation = np.arange(world.tokenizer.vocab_size)
    words = world.ids("q")
    permutation[words] = np.roll(words, 1)
    runs = []
    for limits, fields, (groups, samples), of in (
        ({{}}, {{}}, (8, 3), {{}}),
        ({{"deadline_steps": 6}}, {{"search_steps": 2}}, (8, 3), {{"token_permutation": permutation}}),
        ({{}}, {{"extend_tokens": (5,)}}, (3, 8), {{"forced_search": "Karn near Velith"}}),
    ):
        searcher = conftest.Library(world.texts)
        shape = dict(slots=8, prompt_rows=4, extend_rows=(4, 8)) | fields
        engine = world.engine(searcher, mesh=mesh, limits=limits, **shape)
        engine.warm_up(params)
        requests = world.requests(groups, samples=samples, **of)
        found = engine.run(params, requests, version=2, seed=11)
        shown = [[t.task_id, t.group, t.sample, t.ids.tolist(), t.trainable.tolist(), t.versions.tolist(), t.stop,
                  t.answer, repr(t.turns)] for t in found]
        asked = sorted([query.text, query.passage_id] for query in searcher.queries)
        counts = ("engine_steps", "searches", "tokens", "extends", "copied_extends", "compiles")
        runs.append(dict(episodes=shown, logprobs=[t.logprobs.tolist() for t in found], asked=asked,
                         stats={{k: engine.stats[k] for k in counts}}))
    (folder / f"{{count}}-{{number}}.json").write_text(json.dumps(runs))
"""


def run(folder, count):
    with socket.create_server(("127.0.0.1", 0)) as free:
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    code = WORKER.format(root=str(ROOT), here=str(Path(__file__).parent))
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(count), str(number), coordinator],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        for number in range(count)
    ]
    texts = [process.communicate(timeout=600)[0] for process in running]
    assert not any(process.returncode for process in running), "\n".join(texts)
    return [json.loads((folder / f"{count}-{number}.json").read_text()) for number in range(count)]


@pytest.mark.slow
def test_several_processes_write_what_one_writes_and_each_searches_for_its_own(world, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(Path(world.tokenizer.path).read_bytes())
    (one,) = run(tmp_path, 1)
    assert min(single["stats"]["searches"] for single in one) > 15
    stops = {episode[6] for single in one for episode in single["episodes"]}
    assert {"answer", "deadline"} <= stops
    assert one[2]["stats"]["copied_extends"] > 0  # two samples of a group in a shard
    for count in (2, 4):
        several = run(tmp_path, count)
        for number, single in enumerate(one):
            mine = [process[number] for process in several]
            for process in mine:
                assert process["episodes"] == single["episodes"]
                assert (
                    process["stats"] == single["stats"]
                )  # the same engine steps and programs; nothing compiled after warm-up
                for ours, theirs in zip(process["logprobs"], single["logprobs"], strict=True):
                    assert ours == pytest.approx(theirs, abs=1e-5)
            # Together they asked exactly what one asks, and none of them much more than its share.
            assert sorted(query for process in mine for query in process["asked"]) == single["asked"]
            assert all(len(process["asked"]) < 2 * len(single["asked"]) / count for process in mine)
        assert single["stats"]["compiles"] == 0
