"""Entry: published checkpoints (safetensors, as transformers writes them) to ours and back.

    python -m masksearch_jax.convert --from=HF_FOLDER --to=W/pretrained
    python -m masksearch_jax.convert --from=FILE.gguf --to=HF_FOLDER            a file of llama.cpp, dequantised
    python -m masksearch_jax.convert --from=W/dapo --to=HF_FOLDER --like=HF_FOLDER_IT_STARTED_FROM
    python -m masksearch_jax.convert --from=W/dapo --to=FOLDER --merge      adapters added into their base

A stage that trained adapters (lora.rank) leaves as a folder of the PEFT library; with --merge as a whole model, for
which the base is read again from where it came, or from --base.

The direction follows from what --from holds: a .gguf file, safetensors files, or a `checkpoints` folder of a stage.
Ours is written as a stage folder: checkpoints/0 with the parameters, config.json with the model, and hf/ with the
published config.json and the tokenizer, which the way back uses unless --like names another folder. A stage that was
trained with added tags (prepare.tokenizer.added_tags) leaves with the tokenizer of W/data, which has them. Runs on one
machine; a training job (`--config.pretrained=HF_FOLDER`) reads a published folder itself, each host its own part.
"""

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path

import jax
from absl import app, flags, logging

from masksearch_jax import entry, sharding
from masksearch_jax.checkpoints import Checkpointer
from masksearch_jax.model import config as model_config
from masksearch_jax.model import convert, export, families, lora, peft, transformer
from masksearch_jax.model.published import gguf
from masksearch_jax.runtime.json_files import read_json_object, write_json
from masksearch_jax.text import added_tags, tokenizer
from masksearch_jax.text.published import PublishedTokenizer
from masksearch_jax.trainers import state as state_lib


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
    write_json(target / "config.json", {"model": dataclasses.asdict(cfg)})


def from_gguf(source: Path, target: Path, dtype: str = "float32") -> None:
    """Writes the published folder `target` of a .gguf file, whole or not at all.

    Raises FileExistsError if the folder holds something, ValueError if the file or its tokenizer cannot be used.
    """
    export.refuse_full(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as parent:
        made = Path(parent) / "hf"
        gguf.convert_gguf(source, made, dtype)
        PublishedTokenizer(made)  # refuses what is not exact to the byte
        if target.exists():
            target.rmdir()  # empty, or refused above
        made.rename(target)


def to_published(
    source: Path,
    target: Path,
    like: Path | None = None,
    dtype: str = "",
    step: int | None = None,
    shard_bytes: int = 5 * 10**9,
    merge: bool = False,
    base: str = "",
) -> None:
    """Writes a stage's parameters as a published folder; arguments as `export.save_pretrained`.

    Adapters are written as a PEFT folder, or, if `merge`, added into their base. base: published folder of that base,
    by default the one that training read. Raises ValueError if its weights are not those that the adapters stand on.
    """
    export.refuse_full(target)
    path = source / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a stage folder describes its model there")
    cfg = model_config.from_config(read_json_object(path, "copy the folder of the stage again", ("model",))["model"])
    if like is None and (source / "hf" / "config.json").exists():
        like = source / "hf"
    mesh = sharding.make_mesh()
    trained = {"params": state_lib.abstract_trained(cfg, mesh)}
    checkpoints = Checkpointer(source / "checkpoints", read_only=True)
    state, meta, _ = checkpoints.restore(step, trained, partial=True)
    checkpoints.close()
    params, dtype = state["params"], dtype or cfg.param_dtype
    if cfg.lora:
        base = base or meta["base"]["pretrained"]
        if not merge:
            peft.save(target, cfg, params["adapters"], base, dtype)
            return
        params = lora.merged(cfg, lora.join(params, _base(source, cfg, mesh, meta, base)))
        like = like or (Path(base) if base else None)
    trained_with = source.parent / "data" / tokenizer.PUBLISHED
    added = like is not None and (trained_with / "tokenizer.json").exists() and _added_tags(trained_with, like)
    export.save_pretrained(
        target, cfg.merged, params, like=like, dtype=dtype, shard_bytes=shard_bytes,
        tokenizer=trained_with if added else None,
    )  # fmt: skip


def _added_tags(trained_with: Path, like: Path) -> bool:
    """True if training used a tokenizer with tags of ours that the one of `like` lacks."""
    return bool(added_tags.former_ids(PublishedTokenizer(trained_with), like))


def _base(source, cfg, mesh, meta, base):
    """The frozen base under the adapters of a checkpoint, checked by its hash."""
    seed = meta["base"]["seed"]
    if base:
        chosen = {name: getattr(cfg, name) for name in families.RUN_FIELDS}
        params = transformer.adapt(cfg, convert.load_pretrained(base, mesh, **chosen)[1], seed, mesh)
    else:
        params = transformer.init_params(cfg, seed, mesh)
    frozen = lora.split(params)[1]
    state_lib.check_adapters(meta, state_lib.adapter_facts(cfg, frozen, base, seed), source)
    return frozen[0]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every call
    given = flags.FLAGS.flag_values_dict()
    source, target = Path(given["from"]), Path(given["to"])
    like = Path(given["like"]) if given["like"] else None
    try:
        if source.suffix == ".gguf":
            from_gguf(source, target, given["dtype"] or "float32")
        elif (source / "checkpoints").is_dir():
            size = int(given["shard_gb"] * 1e9)
            to_published(
                source, target, like, given["dtype"] or "", given["step"], size, given["merge"], given["base"] or ""
            )
        else:
            from_published(source, target, given["dtype"] or "float32")
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"convert: {entry.sentence(error)}") from error
    print(f"convert: {source} -> {target}")


if __name__ == "__main__":
    flags.DEFINE_string("from", None, "A published folder, a .gguf file, or a stage folder of ours.", required=True)
    flags.DEFINE_string("to", None, "The folder to write.", required=True)
    flags.DEFINE_string("like", None, "A published folder to take token ids and the tokenizer from.")
    flags.DEFINE_enum("dtype", None, model_config.DTYPES, "Of the weights written; default float32, or as stored.")
    flags.DEFINE_integer("step", None, "Which checkpoint of the stage; by default the last.")
    flags.DEFINE_bool("merge", False, "Add adapters into their base, and write the whole model.")
    flags.DEFINE_string("base", None, "A published folder, the base of the adapters; by default where it came from.")
    flags.DEFINE_float("shard_gb", 5.0, "Largest safetensors file, in 10^9 bytes.")
    app.run(main)
