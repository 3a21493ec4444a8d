"""What a checkpoint of adapters records beside them, and the check that a run fits it.

A checkpoint holds the adapters and not the base that they were trained on. So it records their settings, and where the
base came from with its hash.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.model import lora
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.runtime.types import Json, JsonObject, Params


def describe(cfg: ModelConfig, base: Params, pretrained: str, seed: int) -> JsonObject:
    """Return the settings of the adapters and the origin and hash of their base, as JSON data; {} without adapters.

    base: the frozen base, as `lora.split` returns it. pretrained, seed: those of the config. If pretrained is empty,
    the base was initialised from the seed.
    """
    if cfg.lora is None:
        return {}
    settings = dataclasses.asdict(cfg.lora)
    return {
        "adapters": settings | {"targets": list(settings["targets"])},
        "base": {"pretrained": pretrained, "seed": seed, "hash": lora.fingerprint(base)},
    }


def check_adapters(meta: Mapping[str, Json], facts: Mapping[str, Json], folder: Path) -> None:
    """Raise ValueError if the checkpoint in `folder` has other adapters or another base than this run.

    meta: the checkpoint's facts. facts: those of this run, from `describe`.
    """
    saved, now = meta.get("adapters"), facts.get("adapters")
    if saved != now:
        described = [" ".join(f"lora.{k}={v}" for k, v in x.items()) if x else "no adapters" for x in (saved, now)]
        raise ValueError(
            f"{folder} was trained with {described[0]}, and this run has {described[1]}: give the same --config.lora.*"
            " settings, or another --workdir"
        )
    if saved and meta["base"]["hash"] != facts["base"]["hash"]:
        there, here = (
            f"{x['pretrained'] or 'fresh weights of seed ' + str(x['seed'])} (hash {x['hash']})"
            for x in (meta["base"], facts["base"])
        )
        raise ValueError(
            f"{folder}: its adapters stand on {there}, and the base here is {here}; give the same --config.pretrained,"
            " seed and model.param_dtype"
        )
