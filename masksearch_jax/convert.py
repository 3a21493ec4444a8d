"""Entry: published checkpoints (safetensors, as transformers writes them) to ours and back.

    python -m masksearch_jax.convert --from=HF_FOLDER --to=W/pretrained
    python -m masksearch_jax.convert --from=W/dapo --to=HF_FOLDER --like=HF_FOLDER_IT_STARTED_FROM

The direction follows from what --from holds: safetensors files, or a `checkpoints` folder of a stage. Ours is written
as a stage folder: checkpoints/0 with the parameters, config.json with the model, and hf/ with the published config.json
and the tokenizer, which the way back uses unless --like names another folder. Runs on one machine; a training job
(`--config.pretrained=HF_FOLDER`) reads a published folder itself, each host its own part.
"""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
from absl import app, flags, logging

from masksearch_jax import sharding
from masksearch_jax.checkpoints import Checkpointer
from masksearch_jax.model import config as model_config
from masksearch_jax.model import convert, export, transformer


def from_published(source: Path, target: Path, param_dtype: str = "float32") -> None:
    """Writes the stage folder `target` of a published checkpoint. Raises FileExistsError if it holds something."""
    export.refuse_full(target)
    cfg, params = convert.load_pretrained(source, sharding.make_mesh(), param_dtype=param_dtype)
    (target / "hf").mkdir(parents=True, exist_ok=True)
    largest = max(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(params))
    checkpoints = Checkpointer(target / "checkpoints", background=False, in_flight_bytes=largest + 1)
    checkpoints.save(0, {"params": params}, {"from": str(source)}, {})
    checkpoints.close()
    shutil.copyfile(source / "config.json", target / "hf" / "config.json")
    export.copy_companions(source, target / "hf")
    (target / "config.json").write_text(json.dumps({"model": dataclasses.asdict(cfg)}, indent=1))


def to_published(
    source: Path,
    target: Path,
    like: Path | None = None,
    dtype: str = "",
    step: int | None = None,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a stage's parameters as a published folder; arguments as `export.save_pretrained`."""
    export.refuse_full(target)
    path = source / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a stage folder describes its model there")
    cfg = model_config.from_config(json.loads(path.read_text())["model"])
    if like is None and (source / "hf" / "config.json").exists():
        like = source / "hf"
    mesh = sharding.make_mesh()
    checkpoints = Checkpointer(source / "checkpoints", read_only=True)
    state, _, _ = checkpoints.restore(step, {"params": transformer.abstract_params(cfg, mesh)}, partial=True)
    checkpoints.close()
    export.save_pretrained(target, cfg, state["params"], like=like, dtype=dtype, shard_bytes=shard_bytes)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every call
    given = flags.FLAGS.flag_values_dict()
    source, target = Path(given["from"]), Path(given["to"])
    like = Path(given["like"]) if given["like"] else None
    try:
        if (source / "checkpoints").is_dir():
            to_published(source, target, like, given["dtype"] or "", given["step"], int(given["shard_gb"] * 1e9))
        else:
            from_published(source, target, given["dtype"] or "float32")
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        raise SystemExit(f"convert: {error}") from error
    print(f"convert: {source} -> {target}")


if __name__ == "__main__":
    flags.DEFINE_string("from", None, "A published folder, or a stage folder of ours.", required=True)
    flags.DEFINE_string("to", None, "The folder to write.", required=True)
    flags.DEFINE_string("like", None, "A published folder to take token ids and the tokenizer from.")
    flags.DEFINE_enum("dtype", None, model_config.DTYPES, "Of the weights written; default float32, or as stored.")
    flags.DEFINE_integer("step", None, "Which checkpoint of the stage; by default the last.")
    flags.DEFINE_float("shard_gb", 5.0, "Largest safetensors file, in 10^9 bytes.")
    app.run(main)
