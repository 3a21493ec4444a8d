"""Open the client of a language model from the `llm` settings of a config.

Enters: the settings, and where to keep the cache. Leaves: a client of the endpoint that `llm.url` names, or of a
checkpoint. JAX starts and weights load for a checkpoint only. Never imports prep.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import jax
from ml_collections import ConfigDict

from masksearch_jax.llm.chat_types import Backend, Sampling
from masksearch_jax.llm.client import Client, ClientSettings
from masksearch_jax.llm.endpoint import Endpoint
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject, Params

if TYPE_CHECKING:  # imported where a checkpoint is opened
    from masksearch_jax.model.policy import Policy
    from masksearch_jax.text.chat_template import TemplateSource
    from masksearch_jax.text.tokenizer_protocol import Tokenizer

Opened: TypeAlias = "tuple[str, Policy, Params, Tokenizer]"  # (name, policy, parameters, tokenizer)

# The settings of `llm` that decide a reply. The others say how to ask, and may change from one run to the next.
DECIDING = ("model", "chat", "temperature", "max_tokens")


def deciding(settings: ConfigDict) -> JsonObject:
    """Return the `llm` settings that decide a reply, for the manifest of data that is made with the model."""
    variables = list(settings.chat_variables)
    return {name: settings[name] for name in DECIDING} | ({"chat_variables": variables} if variables else {})


def sampling(settings: ConfigDict) -> Sampling:
    return Sampling(settings.temperature, settings.max_tokens)


def validate_llm(settings: ConfigDict, wanted_by: str) -> None:
    """Raise ValueError if the `llm` settings name no model, or a server that cannot be asked.

    wanted_by: the setting that needs the model.
    """
    if not (settings.url or settings.model):
        raise ValueError(
            f"{wanted_by} asks a language model, and none is connected: name a server and its model by llm.url and "
            "llm.model, or a folder by llm.model alone"
        )
    if settings.url:
        endpoint(settings).close()


def endpoint(settings: ConfigDict) -> Endpoint:
    return Endpoint(
        settings.url, settings.model, settings.key_variable, settings.json_mode, settings.limit_field, settings.omit
    )


def connect(settings: ConfigDict, cache_file: Path) -> Client:
    """Return the client of `settings` (the `llm` section of a config). Sends no request yet.

    Raises ValueError or FileNotFoundError for settings that cannot work.
    """
    sampling(settings)
    names = (
        "timeout_s", "retries", "concurrency", "requests_per_minute", "tokens_per_minute", "prompt_price",
        "completion_price", "budget",
    )  # fmt: skip
    limits = ClientSettings(**{name: settings[name] for name in names})
    if settings.url:
        return Client(endpoint(settings), limits, cache_file)
    return Client(_local(settings, limits.concurrency), limits, cache_file)


def _local(settings: ConfigDict, slots: int) -> Backend:
    """Return a local model on this machine's devices from a stage folder of ours or a published folder."""
    from masksearch_jax.llm.checkpoint_model import LocalModel
    from masksearch_jax.rollout.engine import RolloutConfig
    from masksearch_jax.rollout.episode import EpisodeLimits
    from masksearch_jax.runtime import mesh as mesh_lib
    from masksearch_jax.text import chat_template

    mesh = mesh_lib.make_mesh()
    chat = "" if _is_stage(Path(settings.model)) else settings.chat
    name, policy, params, tokenizer = opened(settings.model, mesh, "llm.model", chat)
    slots = -(-slots // mesh.size) * mesh.size  # divisible by any axes of the mesh
    total = settings.total_tokens
    cfg = RolloutConfig(
        slots=slots, limits=EpisodeLimits(turns=1, turn_tokens=settings.max_tokens, total_tokens=total),
        prompt_rows=slots, prompt_lengths=tuple(sorted({total // 4, total // 2, total} - {0})),
        extend_rows=(slots,), extend_tokens=(8,),
    )  # fmt: skip
    params = policy.decode_copy()(params)
    variables = chat_template.read_variables(settings.chat_variables) if chat else {}
    if not _is_stage(Path(settings.model)) and (variables or chat != chat_template.AUTO):
        # The cache of replies is keyed by name, and another template or other variables give other prompts.
        source: TemplateSource | None = getattr(tokenizer, "chat_template", None)
        template = source.text if chat and source else ""
        name += "+" + hashlib.sha256(json.dumps([template, variables]).encode()).hexdigest()[:8]
    return LocalModel(name, cfg, policy.config.merged, params, tokenizer, mesh, chat, settings.temperature, variables)


def opened(name: str | Path, mesh: jax.sharding.Mesh, setting: str, chat: str = "") -> Opened:
    """Return (name, Policy, parameters in the TRAIN layout, tokenizer) of a stage of ours or a published folder.

    chat: for a published folder, a chat template file that replaces its own (published_tokenizer.PublishedTokenizer).
    Raises FileNotFoundError that names `setting` for any other folder and for ''.
    """
    folder = Path(name)
    if not str(name) or not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{setting}={str(name)!r} has to be the folder of a trained stage (runs/dapo/dapo) or of a published "
            "checkpoint" + ("; or set llm.url to an OpenAI-compatible server" if setting == "llm.model" else "")
        )
    return _stage(folder, mesh) if _is_stage(folder) else _published(folder, mesh, chat)


def _is_stage(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir()


def _stage(folder: Path, mesh: jax.sharding.Mesh) -> Opened:
    from masksearch_jax.model import config as model_config
    from masksearch_jax.model.policy import Policy
    from masksearch_jax.runtime.checkpoints import Checkpointer
    from masksearch_jax.text import tokenizer

    described = read_json_object(folder / "config.json", "copy the folder of the stage again", ("model",))
    cfg = model_config.from_config(described["model"])
    if cfg.lora:
        raise ValueError(
            f"llm.model={folder} holds adapters; merge them first: python -m masksearch_jax.convert --from={folder} "
            "--to=FOLDER --merge"
        )
    policy = Policy(cfg, mesh)
    checkpoints = Checkpointer(folder / "checkpoints", read_only=True)
    state, meta, _ = checkpoints.restore(None, {"params": policy.abstract_trainable}, partial=True)
    checkpoints.close()
    return f"{folder.resolve()}@{meta['step']}", policy, state["params"], tokenizer.load(folder.parent / "data")


def _published(folder: Path, mesh: jax.sharding.Mesh, chat: str) -> Opened:
    from masksearch_jax.model.policy import Policy
    from masksearch_jax.model.published import load
    from masksearch_jax.text.published_tokenizer import PublishedTokenizer

    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    tokenizer = PublishedTokenizer(folder, chat)  # a bad tokenizer raises before the weights load
    cfg, params = load.load_pretrained(folder, mesh)
    return f"{folder.resolve()}@{digest}", Policy(cfg, mesh), params, tokenizer
