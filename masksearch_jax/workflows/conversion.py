"""Convert published checkpoints (safetensors, as transformers writes them) to ours and back (masksearch_jax.convert).

A stage that trained adapters (lora.rank) is written as a folder of the PEFT library. With `merge` it is written as a
whole model, whose base is read again from where training read it, or from `base`.

A published checkpoint is written as a stage folder: checkpoints/0 with the parameters, config.json with the model, and
hf/ with the published config.json and the tokenizer. The conversion back uses hf/ unless --like names another folder. A
stage that was trained with added tags (prepare.tokenizer.added_tags) is written with the tokenizer of W/data, which has
these tags. Conversion runs on one machine. It is not needed for training: a stage reads a published folder itself
(`--config.pretrained=HF_FOLDER`), each host its own part.
"""

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path

import jax

from masksearch_jax.model import adapter_facts, lora
from masksearch_jax.model import config as model_config
from masksearch_jax.model.policy import Policy
from masksearch_jax.model.published import export, families, gguf, load, peft
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime import settings_history
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.json_files import read_json_object, write_json
from masksearch_jax.text import added_tags, tokenizer
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.workflows import model_card


def from_published(source: Path, target: Path, param_dtype: str = "float32") -> None:
    """Write a published checkpoint as the stage folder `target`. Raises FileExistsError if `target` is not empty."""
    export.refuse_full(target)
    cfg, params = load.load_pretrained(source, mesh_lib.make_mesh(), param_dtype=param_dtype)
    (target / "hf").mkdir(parents=True, exist_ok=True)
    largest = max(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(params))
    checkpoints = Checkpointer(target / "checkpoints", background=False, in_flight_bytes=largest + 1)
    checkpoints.save(0, {"params": params}, {"from": str(source)}, {})
    checkpoints.close()
    shutil.copyfile(source / "config.json", target / "hf" / "config.json")
    export.copy_companions(source, target / "hf")
    write_json(target / "config.json", {"model": dataclasses.asdict(cfg)})


def from_gguf(source: Path, target: Path, dtype: str = "float32") -> None:
    """Write a .gguf file as the published folder `target`, whole or not at all.

    Raises FileExistsError if `target` is not empty, ValueError if the file or its tokenizer cannot be used.
    """
    export.refuse_full(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as parent:
        made = Path(parent) / "hf"
        gguf.convert_gguf(source, made, dtype)
        PublishedTokenizer(made)  # raises if the tokenizer is not exact to the byte
        if target.exists():
            target.rmdir()  # it is empty, as checked above
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
    """Write the parameters of a stage as a published folder; for the other arguments see `export.save_pretrained`.

    like: by default the published folder that the stage started from. A card says what the folder holds
    (workflows/model_card.py).
    Adapters are written as a PEFT folder or, with `merge`, added into their base. base: the published folder of that
    base, by default the one that training read. Raises ValueError if its weights are not those that the adapters were
    trained on.
    """
    export.refuse_full(target)
    path = source / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a stage folder describes its model there")
    cfg = model_config.from_config(read_json_object(path, "copy the folder of the stage again", ("model",))["model"])
    if like is None and (source / "hf" / "config.json").exists():
        like = source / "hf"
    started = settings_history.last_settings(source).get("pretrained", "")
    if like is None and started and (Path(started) / "config.json").exists():
        like = Path(started)
    policy = Policy(cfg, mesh_lib.make_mesh())
    checkpoints = Checkpointer(source / "checkpoints", read_only=True)
    state, meta, _ = checkpoints.restore(step, {"params": policy.abstract_trainable}, partial=True)
    checkpoints.close()
    params, dtype = state["params"], dtype or cfg.param_dtype
    if cfg.lora:
        base = base or meta["base"]["pretrained"]
        if not merge:
            peft.save(target, cfg, params["adapters"], base, dtype)
            model_card.write(target, source, meta["step"], base)
            return
        params = lora.merged(cfg, policy.merge(params, _base(source, policy, meta, base)))
        like = like or (Path(base) if base else None)
    trained_with = source.parent / "data" / tokenizer.PUBLISHED
    added = like is not None and (trained_with / "tokenizer.json").exists() and _added_tags(trained_with, like)
    export.save_pretrained(
        target, cfg.merged, params, like=like, dtype=dtype, shard_bytes=shard_bytes,
        tokenizer=trained_with if added else None,
    )  # fmt: skip
    model_card.write(target, source, meta["step"])


def _added_tags(trained_with: Path, like: Path) -> bool:
    """Return True if the tokenizer of the training has added tags that the tokenizer of `like` lacks."""
    return bool(added_tags.former_ids(PublishedTokenizer(trained_with), like))


def _base(source, policy, meta, base):
    """Return the frozen base of a checkpoint's adapters, after checking its hash."""
    seed = meta["base"]["seed"]
    if base:
        chosen = {name: getattr(policy.config, name) for name in families.RUN_FIELDS}
        params = policy.adapt(load.load_pretrained(base, policy.mesh, **chosen)[1], seed)
    else:
        params = policy.init_params(seed)
    frozen = policy.split(params)[1]
    adapter_facts.check_adapters(meta, adapter_facts.describe(policy.config, frozen, base, seed), source)
    return frozen
