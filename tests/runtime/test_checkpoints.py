"""Checkpoints: exact, complete or absent, and readable onto another layout."""

import dataclasses
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from masksearch_jax.runtime.checkpoints import Checkpointer, DamagedError, MismatchError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict
    opt: optax.OptState


def state_of(step):
    params = {"w": jnp.arange(32.0).reshape(8, 4) * step, "b": jnp.full((3,), step, jnp.bfloat16)}
    # Empty nodes in front and masked subtrees: the containers that Orbax has to bring back.
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.muon(0.02))
    return State(jnp.int32(step), params, tx.init(params))


def abstract(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("background", [True, False])
def test_round_trip(tmp_path, background):
    saver = Checkpointer(tmp_path / "c", keep=2, background=background)
    assert saver.latest() is None
    for step in (10, 20, 30):
        saver.save(step, state_of(step), {"config": {"lr": 0.5}}, {"index": step, "cursors": {"1": step}})
    saver.close()
    reader = Checkpointer(tmp_path / "c", read_only=True)
    assert reader.steps() == [20, 30] and reader.latest() == 30
    state, meta, data_state = reader.restore(None, abstract(state_of(0)))
    assert_same(state, state_of(30))
    assert meta == {"config": {"lr": 0.5}, "step": 30} == reader.meta()
    assert data_state == {"index": 30, "cursors": {"1": 30}}
    assert_same(reader.restore(20, abstract(state_of(0)))[0], state_of(20))
    reader.close()


def test_bytes_as_data_state(tmp_path):
    saver = Checkpointer(tmp_path)
    saver.save(1, state_of(1), {}, bytes(range(256)))
    assert saver.restore(None, abstract(state_of(0)))[2] == bytes(range(256))
    saver.close()


def test_restore_onto_another_sharding(tmp_path):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "tensor"))
    saver = Checkpointer(tmp_path)
    layout = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    sharded = jax.device_put({"w": jnp.arange(32.0).reshape(8, 4)}, layout)
    saver.save(1, sharded, {}, {})
    wanted = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    restored = saver.restore(1, abstract(sharded, wanted))[0]["w"]
    saver.close()
    assert restored.sharding == wanted
    np.testing.assert_array_equal(restored, sharded["w"])


def test_partial_restore(tmp_path):
    saver = Checkpointer(tmp_path)
    saver.save(1, state_of(1), {}, {})
    saver.wait()
    only_params = {"params": abstract(state_of(0)).params}
    assert_same(saver.restore(1, only_params, partial=True)[0], {"params": state_of(1).params})
    with pytest.raises(MismatchError, match="opt/1/.*: only in the checkpoint"):
        saver.restore(1, only_params)
    saver.close()


def test_changed_model_is_an_error_not_damage(tmp_path):
    saver = Checkpointer(tmp_path)
    for step in (1, 2):
        saver.save(step, state_of(step), {}, {})
    saver.wait()
    other = abstract(state_of(0))
    other.params["w"] = jax.ShapeDtypeStruct((8, 5), jnp.float32, sharding=other.params["w"].sharding)
    with pytest.raises(MismatchError, match=r"params/w: shape \(8, 4\) in the checkpoint, \(8, 5\) in this run"):
        saver.restore(None, other)
    assert saver.steps() == [1, 2]
    saver.close()


def test_missing_steps_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint was saved there"):
        Checkpointer(tmp_path / "nothing", read_only=True)
    saver = Checkpointer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint; steps there"):
        saver.restore(None, {})
    saver.save(4, state_of(4), {}, {})
    saver.wait()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3; steps there: \[4\]"):
        saver.restore(3, {})
    saver.close()
    with pytest.raises(ValueError, match="keep=1"):
        Checkpointer(tmp_path, keep=1)


def test_background_save_is_not_reached_by_later_donated_steps(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"w": jnp.zeros((2048, 2048)), "b": jnp.zeros(7)}
    saver = Checkpointer(tmp_path, keep=5)
    for number in (1, 2, 3):
        saver.save(number, state, {}, {})
        for _ in range(4):
            state = step(state)
    saver.close()
    reader = Checkpointer(tmp_path, read_only=True)
    for number in (1, 2, 3):
        restored = reader.restore(number, abstract(state))[0]
        np.testing.assert_array_equal(restored["w"], 4 * (number - 1))
    reader.close()


# A coroutine of Orbax that outlives the failed read complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["state/_METADATA", "state/d", "meta/metadata", "data/metadata"])
def test_damaged_newest_falls_back_loudly(tmp_path, damage, caplog):
    saver = Checkpointer(tmp_path, keep=3)
    for step in (1, 2, 3):
        saver.save(step, state_of(step), {"note": "x"}, {"index": step})
    saver.close()
    target = tmp_path / "3" / damage
    shutil.rmtree(target) if target.is_dir() else target.write_bytes(b"\0" * 8)

    reader = Checkpointer(tmp_path, read_only=True)
    for step in (3, None):  # neither a named step nor a reader's newest is replaced by another
        with pytest.raises(DamagedError, match=f"{tmp_path}/3 is damaged: {target}"):
            reader.restore(step, abstract(state_of(0)))
    assert reader.newest_whole() is None
    reader.close()
    assert (tmp_path / "3").exists()

    caplog.clear()
    saver = Checkpointer(tmp_path, keep=3)
    with caplog.at_level(logging.ERROR):
        state, meta, data_state = saver.restore(None, abstract(state_of(0)))
    assert (meta["step"], data_state) == (2, {"index": 2})
    assert_same(state, state_of(2))
    assert "FELL BACK from step 3 to step 2" in caplog.text and "damaged-3" in caplog.text
    # The run goes on and saves step 3 again.
    assert saver.steps() == [1, 2] and (tmp_path / "damaged-3").is_dir()
    saver.save(3, state_of(3), {"note": "y"}, {"index": 3})
    saver.close()
    assert Checkpointer(tmp_path, read_only=True).meta() == {"note": "y", "step": 3}


FLIPS = [10, pytest.param(100, marks=pytest.mark.slow)]


@pytest.mark.parametrize("flips", FLIPS)
def test_single_flipped_bits_are_noticed_and_the_step_before_is_taken(tmp_path, flips, caplog):
    """One bit of one file of the newest step, the files in turn: parameters, optimizer, JSON, Orbax's and checksums."""
    saver = Checkpointer(tmp_path / "whole", keep=3)
    for step in (1, 2):
        saver.save(step, state_of(step), {"note": "x" * 200}, {"index": step, "cursors": {"ramp_1": step}})
    saver.close()
    files = sorted(path for path in (tmp_path / "whole" / "2").rglob("*") if path.is_file() and path.stat().st_size)
    names = [path.relative_to(tmp_path / "whole") for path in files]
    kinds = {name.parts[1] for name in names}
    assert {"state", "meta", "data", "checksums.json", "_CHECKPOINT_METADATA"} <= kinds
    rng = np.random.default_rng(0)
    for number in range(flips):
        folder = tmp_path / f"flip-{number}"
        shutil.copytree(tmp_path / "whole", folder)
        name = names[number % len(names)] if flips >= len(names) else names[rng.integers(len(names))]
        data = bytearray((folder / name).read_bytes())
        bit = int(rng.integers(len(data) * 8))
        data[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(data)
        run = Checkpointer(folder, keep=3)
        assert run.newest_whole() is None, (name, bit)
        state, meta, data_state = run.restore(None, abstract(state_of(0)))
        run.close()
        assert meta["step"] == data_state["index"] == 1, (name, bit)
        assert_same(state, state_of(1))
        assert (folder / "damaged-2").is_dir()
        shutil.rmtree(folder)


def test_a_save_that_fails_is_raised_and_not_logged_as_well(tmp_path):
    run = Checkpointer(tmp_path)
    noted = logging.Handler()
    noted.emit = (said := []).append
    logging.getLogger("absl").addHandler(noted)
    logging.getLogger("asyncio").addHandler(noted)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # stands in for a full disk
        with pytest.raises((OSError, ValueError), match="File too large"):
            run.save(1, {"large": jnp.arange(10_000.0)}, {}, {})
            run.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        logging.getLogger("absl").removeHandler(noted)
        logging.getLogger("asyncio").removeHandler(noted)
    assert not [one for one in said if one.exc_info]


def test_no_readable_checkpoint_is_a_sentence(tmp_path):
    saver = Checkpointer(tmp_path / "sft" / "checkpoints")
    for step in (1, 2):
        saver.save(step, state_of(step), {}, {})
    saver.close()
    shutil.rmtree(tmp_path / "sft" / "checkpoints" / "2")
    (tmp_path / "sft" / "checkpoints" / "2").mkdir()  # an empty folder is no finished step
    (tmp_path / "sft" / "checkpoints" / "1" / "meta" / "metadata").write_text("{}")
    run = Checkpointer(tmp_path / "sft" / "checkpoints")
    assert run.latest() == 2 and run.newest_whole() is None
    with pytest.raises(DamagedError, match="holds no checkpoint that can be read .*remove .*/sft and start again"):
        run.restore(None, abstract(state_of(0)))
    run.close()


def test_the_step_known_to_be_good_is_not_rotated_away(tmp_path):
    saver = Checkpointer(tmp_path, keep=2)
    for step in range(1, 7):
        saver.save(step, state_of(step), {}, {})
        if step == 2:
            saver.confirm(2)
    saver.close()
    saver = Checkpointer(tmp_path, keep=2)
    assert saver.steps() == [2, 5, 6] and saver.known_good == 2
    assert saver.set_aside_doubtful() == 2
    assert saver.steps() == [2] and (tmp_path / "diverged-6").is_dir()
    saver.save(3, state_of(3), {}, {})
    saver.confirm(3)
    for step in (4, 5, 6):
        saver.save(step, state_of(step), {}, {})
    saver.close()
    assert Checkpointer(tmp_path, read_only=True).steps() == [3, 5, 6]
    (tmp_path / "known_good.json").write_text("{")  # what is known is lost, not the run
    assert Checkpointer(tmp_path).known_good is None


SAVE_FOREVER = """
    import sys
    import jax.numpy as jnp
    from masksearch_jax.runtime.checkpoints import Checkpointer
    saver = Checkpointer(sys.argv[1], keep=2)
    start = (saver.latest() or 0) + 1
    for step in range(start, start + 10_000):
        saver.save(step, {"w": jnp.full((256, 1024), step, jnp.float32), "step": jnp.int32(step)}, {}, {"index": step})
        print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_kill_9_in_mid_save_leaves_whole_checkpoints(tmp_path, kills):
    abstract_state = abstract({"w": jnp.zeros((256, 1024)), "step": jnp.int32(0)})
    newest = 0
    rng = np.random.default_rng(0)
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAVE_FOREVER), str(tmp_path / "c")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"XLA_FLAGS": ""},
            text=True,
        )
        for _ in range(3):
            assert process.stdout.readline(), "the saving process died by itself"
        # A save takes some 50 ms, so that this lands anywhere inside one.
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        reader = Checkpointer(tmp_path / "c", read_only=True)
        state, meta, data_state = reader.restore(None, abstract_state)
        reader.close()
        assert meta["step"] == data_state["index"] == int(state["step"]) > newest
        np.testing.assert_array_equal(state["w"], meta["step"])
        newest = meta["step"]
    # The next save clears what the killed ones left behind.
    saver = Checkpointer(tmp_path / "c", keep=2)
    saver.save(newest + 1, state, {}, {})
    saver.close()
    assert not [path for path in (tmp_path / "c").iterdir() if "tmp" in path.name]
