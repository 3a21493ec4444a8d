"""LoRA adapters as folders of the PEFT library (adapter_config.json, adapter_model.safetensors): save ours, load any.

Enters and leaves: the subtree `adapters` of params (lora.py) in its sharded layout, for a model that transformers has.
PEFT's lora_A is our A transposed, [R, inputs], and lora_B our B transposed, [outputs, R]; both scale by alpha / rank.
"""

import json
from pathlib import Path

from jax.sharding import Mesh

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import export, families
from masksearch_jax.model.published import load as convert
from masksearch_jax.runtime import json_files
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.types import Json, Params

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings of PEFT that do not change what an adapter computes, or that `load` compares itself.
_FREE = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_alpha",
    "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip
# The only values of these settings with which an adapter is plain LoRA on the unchanged base. The initialisations
# pissa, olora, corda and loftq change the base.
_PLAIN: dict[str, tuple[Json, ...]] = {
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
# The values that every other setting must have, also one that is not known here.
_OFF: tuple[Json, ...] = (None, False, {}, [], "")


def tensors(cfg: ModelConfig) -> list[convert.Tensor]:
    """Return every tensor of PEFT's weight file, and where each lives in our subtree."""
    found = []
    for weight in convert.tensors(cfg.merged):
        name, inputs, outputs = weight.path[-1], len(weight.columns), len(weight.rows)
        if cfg.lora is None or name not in cfg.lora.targets:
            continue
        read = tuple(weight.shape[axis] for axis in weight.columns)
        written = tuple(weight.shape[axis] for axis in weight.rows)
        at, rank = f"base_model.model.{weight.name.removesuffix('.weight')}", cfg.lora.rank
        a = ((*read, rank), (inputs,), tuple(range(inputs)))
        b = ((rank, *written), tuple(range(1, 1 + outputs)), (0,))
        for letter, (shape, rows, columns) in {"a": a, "b": b}.items():
            file_name = f"{at}.lora_{letter.upper()}.weight"
            found.append(convert.Tensor(file_name, (f"{name}_{letter}",), weight.layer, shape, rows, columns))
    return found


def save(folder: Path | str, cfg: ModelConfig, adapters: Params, base: str = "", dtype: str = "float32") -> None:
    """Write a folder that `peft.PeftModel.from_pretrained(model, folder)` loads onto the base model.

    base: name or folder of the base model, for adapter_config.json. dtype: the dtype of the weights written.
    Raises FileExistsError for a folder that is not empty, ValueError for a model of no published family.
    """
    folder = Path(folder)
    export.refuse_full(folder)
    families.to_hf(cfg.merged, dtype)  # raises
    wanted = tensors(cfg)
    assert cfg.lora is not None
    folder.mkdir(parents=True, exist_ok=True)
    export.save_tensors(folder / _WEIGHTS, adapters, wanted, dtype)
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": cfg.lora.rank,
        "lora_alpha": cfg.lora.alpha,
        "target_modules": sorted({tensor.name.split(".")[-3] for tensor in wanted}),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / _CONFIG).write_text(json.dumps(content, indent=1))


def load(folder: Path | str, cfg: ModelConfig, mesh: Mesh, rules: mesh_lib.Rules = mesh_lib.TRAIN) -> Params:
    """Read an adapter of PEFT as the subtree `adapters` of cfg's params, in the layout of `rules`.

    Raises FileNotFoundError for a missing file, and ValueError for a rank or alpha other than cfg's, for a kind of
    adapter that lora.py does not compute, or for missing, surplus and ill-shaped tensors, naming all of them.
    """
    folder = Path(folder)
    path = folder / _CONFIG
    found = json_files.read_json_object(path, "give the folder that PEFT's save_pretrained wrote", ("r", "lora_alpha"))
    if cfg.lora is None:
        raise ValueError(f"{folder} holds adapters and this run has none; set --config.lora.rank")
    strange = [
        f"{name} = {value!r}"
        for name, value in sorted(found.items())
        if name not in _FREE and not any(value is plain or value == plain for plain in _PLAIN.get(name, _OFF))
    ]
    if found.get("peft_type") != "LORA" or strange:
        strange = [f"peft_type = {found.get('peft_type')!r}", *strange]
        raise ValueError(f"{path}: {', '.join(strange)}; only plain LoRA is computed here")
    if (found["r"], found["lora_alpha"]) != (cfg.lora.rank, cfg.lora.alpha):
        raise ValueError(
            f"{path}: r = {found['r']}, lora_alpha = {found['lora_alpha']}, and this run has lora.rank ="
            f" {cfg.lora.rank}, alpha = {cfg.lora.alpha}; give those of the file"
        )
    abstract = transformer.abstract_params(cfg, mesh, rules)["adapters"]
    return convert.load_tensors(folder, cfg, tensors(cfg), abstract, single=_WEIGHTS)
