"""The entry `convert`: a published folder to a stage folder and back, its messages, and what memory reading takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from masksearch_jax import convert as entry
from masksearch_jax import sharding
from masksearch_jax.checkpoints import Checkpointer
from masksearch_jax.model import config as model_config
from masksearch_jax.model import families, transformer
from masksearch_jax.model.convert import read_safetensors, tensors

ROOT = Path(__file__).parent.parent
CONFIG = families.to_hf(
    families.named("qwen2.5-7b", vocab_size=48, layers=2, embed=32, heads=4, kv_heads=2, head_dim=8, ff=40), "float32"
)


def write(folder: Path, config: dict, dtype=np.float32) -> Path:
    """A published folder with random weights."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    wanted = tensors(families.from_hf(config))
    found = {t.name: rng.standard_normal(t.file_shape, np.float32).astype(dtype) for t in wanted}
    safetensors.numpy.save_file(found, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_to_a_stage_folder_and_back(tmp_path):
    published = write(tmp_path / "hf", CONFIG)
    entry.from_published(published, tmp_path / "pretrained")
    # What a job does with a stage: model and parameters of its last checkpoint.
    cfg = model_config.from_config(json.loads((tmp_path / "pretrained" / "config.json").read_text())["model"])
    assert cfg == families.from_hf(CONFIG)
    abstract = {"params": transformer.abstract_params(cfg, sharding.make_mesh(1, 4, 2))}
    checkpoints = Checkpointer(tmp_path / "pretrained" / "checkpoints", read_only=True)
    state, meta, _ = checkpoints.restore(None, abstract, partial=True)
    checkpoints.close()
    assert meta["step"] == 0
    raw = read_safetensors(published / "model.safetensors")
    np.testing.assert_array_equal(state["params"]["unembedding"], raw["lm_head.weight"].T)
    entry.to_published(tmp_path / "pretrained", tmp_path / "out")
    back = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert set(back) == set(raw)
    for name, x in back.items():
        np.testing.assert_array_equal(x, raw[name])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 7
    assert (tmp_path / "out" / "tokenizer.json").exists()
    entry.to_published(tmp_path / "pretrained", tmp_path / "half", dtype="bfloat16")
    half = read_safetensors(tmp_path / "half" / "model.safetensors")["model.norm.weight"]
    np.testing.assert_array_equal(half, raw["model.norm.weight"].astype(jnp.bfloat16))


def test_a_full_target_is_refused_before_any_work(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(FileExistsError, match="full is not empty"):
        entry.from_published(tmp_path / "nowhere", tmp_path / "full")
    with pytest.raises(FileExistsError, match="full is not empty"):
        entry.to_published(tmp_path / "nowhere", tmp_path / "full")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "masksearch_jax.convert", f"--from={tmp_path}/none", f"--to={tmp_path}/out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{tmp_path}/none/config.json does not exist; give the folder that transformers" in done.stderr
    assert not (tmp_path / "out").exists()


# Prints the growth of the resident set while a checkpoint is read, in bytes. Peak: VmHWM, which writing 5 to clear_refs
# sets back to the present size; mapped pages of files count in it.
_MEASURE = """
import json, sys
from pathlib import Path
import jax
from masksearch_jax import sharding
from masksearch_jax.model import convert

def status(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024

mesh = sharding.make_mesh(1, 4, 2)
convert.load_pretrained(sys.argv[1], mesh)  # a tiny one: imports and the first compilation
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
cfg, params = convert.load_pretrained(sys.argv[2], mesh)
peak = status("VmHWM")
held = sum(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards)
print(json.dumps({"growth": peak - before, "held": held, "devices": jax.device_count()}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read as Linux has them")
def test_reading_holds_the_parameters_and_two_tensors_at_most(tmp_path):
    """Qwen2.5-7B's shape, a seventh as wide, bfloat16 files into float32 parameters on eight devices: 610 MB."""
    small = families.named("qwen2.5-7b", vocab_size=21720, embed=512, head_dim=16, ff=2704)
    tiny, large = (
        write(tmp_path / "tiny", CONFIG),
        write(tmp_path / "large", families.to_hf(small, "bfloat16"), jnp.bfloat16),
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, tiny, large],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    largest = max(np.prod(t.file_shape) for t in tensors(small)) * 4
    assert found["devices"] == 8 and found["held"] > 600e6
    assert found["growth"] <= found["held"] + 2 * largest
    assert found["growth"] > 0.9 * found["held"]  # the measurement sees what is held
