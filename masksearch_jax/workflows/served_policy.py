"""Open a policy to talk to: a trained stage of ours, or a published folder such as `convert` writes.

Enters: the folder, and for a search loop the run whose data it searches. Leaves: weights for sampling, the tokenizer,
how messages and questions become prompts, and the tools. What a policy was trained with decides: a stage's history has
its settings, and W/data its wording. An exported folder has both in `masksearch.json` (workflows/model_card.py). It may
be a stranger's, so nothing in it names a program, a file or a server. For any other published folder they are the
defaults and the wording of the data that is searched.
"""

import dataclasses
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import jax
from ml_collections import ConfigDict

from masksearch_jax.model.policy import Policy
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.runtime import json_files, settings_history
from masksearch_jax.runtime.config_files import find_config
from masksearch_jax.runtime.types import Json, JsonObject, Params, Setting
from masksearch_jax.serving.engine import EngineSettings, ServingEngine
from masksearch_jax.serving.search_loop import AgentSettings
from masksearch_jax.text import chat_template
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.text.tool_names import tool_names
from masksearch_jax.workflows import llm_connection, model_card, setting_ranges
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.few_shot import Wording
from masksearch_jax.workflows.setting_rules import one_of
from masksearch_jax.workflows.tools import ARTICLE

SECTIONS = (
    "seed",
    "model",
    "pretrained",
    "lora",
    "search",
    "tools",
    "episode",
)  # that decide what a policy is and does
# Settings that an exported folder may decide, besides those of `episode`.
_FROM_EXPORTS = ("search.hits", "tools.visit", "tools.snippet_words")
_TRAIN_RANGES = setting_ranges.RANGES["train"]
_AGAIN = "export the policy again"
_PUBLISHED_TOKENS = 2048  # of prompt and reply, at most, for a model that says nothing about episodes


@dataclasses.dataclass(frozen=True)
class ServedPolicy:
    """A policy with its weights in the DECODE layout.

    settings: those of common.py, as the policy was trained; trained: whether they are its own. wording: None if nothing
    says how its prompts were written. own_tools: tools that it calls and that an export does not hold.
    """

    folder: Path
    policy: Policy
    params: Params
    tokenizer: Tokenizer
    settings: ConfigDict
    trained: bool
    wording: Wording | None
    own_tools: tuple[str, ...] = ()

    def engine(self, slots: int, steps: int, total_tokens: int = 0, pending: int = 256) -> ServingEngine:
        """Return an engine of this policy. total_tokens: 0 for as many as an episode has.

        Raises ValueError for more tokens than the model has positions for.
        """
        positions = self._positions()
        if positions and total_tokens > positions:
            raise ValueError(
                f"total_tokens={total_tokens}: {self.folder / 'config.json'} says max_position_embeddings={positions}; "
                "give no more"
            )
        usual = self.settings.episode.total_tokens if self.trained else _PUBLISHED_TOKENS
        total = total_tokens or min(usual, positions or usual)
        settings = EngineSettings(slots, steps, total, pending)
        tools = tool_names(self.settings.tools)
        return ServingEngine(settings, self.policy.config.merged, self.params, self.tokenizer, self.policy.mesh, tools)

    def _positions(self) -> int | None:
        """Return how many tokens a published folder says that its model can read; None if it does not say."""
        said = json_files.read_json_object(self.folder / "config.json", "download it again")
        nested = said.get("text_config")  # of a model that reads images too
        found = said.get("max_position_embeddings", nested.get("max_position_embeddings") if nested else None)
        return found if isinstance(found, int) and found > 1 else None

    def chat_prompt(self) -> Callable[[Sequence[tuple[str, str]]], list[int]]:
        """Return what turns messages into prompt ids: the tokenizer's chat template, or plain text without one."""
        tokenizer = self.tokenizer
        if getattr(tokenizer, "chat_template", None) is None:

            def joined(messages: Sequence[tuple[str, str]]) -> list[int]:
                text = "\n\n".join(content for _, content in messages)
                return [*tokenizer.prefix_ids, *tokenizer.encode(f" {text}")]

            return joined
        published = cast(chat_template.ControlTokenizer, tokenizer)
        variables = self.wording.chat_variables if self.wording else {}
        return lambda messages: chat_template.encode_conversation(published, messages, variables)

    def agent(self, workdir: Path | None, index: str, search_url: str) -> AgentSettings:
        """Return what a search loop needs. workdir: the run whose data it searches; None for that of the policy.

        Raises ValueError or FileNotFoundError that says what is missing.
        """
        run = workdir or self.folder.parent
        if workdir is None and not _is_stage(self.folder):
            raise ValueError(f"{self.folder} lies in no run; name the run whose data is searched, --workdir=W")
        if self.own_tools:
            raise ValueError(
                f"{self.folder} was trained to call {', '.join(self.own_tools)}, and an export holds no tools; give "
                "the stage itself on the machine that has them, --policy=W/dapo"
            )
        cfg = self.settings.copy_and_resolve_references()
        cfg.search.exclusion = "none"  # a question was cut from no passage
        if search_url:
            cfg.search.url = search_url
        wording = self.wording or Wording.load(run / "data", self.tokenizer)
        if not cfg.search.url and not cfg.tools.search and not (run / "data" / "index" / index).is_dir():
            raise FileNotFoundError(
                f"{run / 'data' / 'index' / index} does not exist; name a run with prepared data (--workdir=W), one of "
                "its indices, or a search server"
            )
        limits = EpisodeLimits(**cfg.episode.to_dict())
        return AgentSettings(
            wording.prompt_of, RunContext(cfg, run).searcher(index), limits, cfg.search.hits, tool_names(cfg.tools)
        )


def open_policy(folder: Path, mesh: jax.sharding.Mesh, workdir: Path | None = None, dtype: str = "") -> ServedPolicy:
    """Open a folder. workdir: the run whose wording and settings a published folder without its own takes.

    dtype: of activations and weights; '' as trained. Raises FileNotFoundError or ValueError that names what is wrong.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"--policy={folder} has to be the folder of a trained stage, such as runs/dapo/dapo, or a published model's"
        )
    settings, wording_json, trained = _defaults(), None, True
    own_tools: tuple[str, ...] = ()
    exported = folder / model_card.FACTS
    if _is_stage(folder):
        recorded = settings_history.last_settings(folder)
        trained = bool(recorded)
        _take(settings, recorded)
        data = folder.parent / "data"
        wording_json = Wording.read(data) if (data / Wording.FILE).exists() else None
    elif exported.exists():
        facts = json_files.read_json_object(exported, _AGAIN, required=("settings", "wording"))
        _take_exported(settings, facts["settings"], exported)
        wording_json, own_tools = facts["wording"], tuple(map(str, facts.get("own_tools", ())))
        if wording_json and not (isinstance(wording_json, dict) and "instruction" in wording_json):
            raise ValueError(f"{exported}: its wording has no instruction; {_AGAIN}")
    else:
        trained = False
        if workdir is not None and (workdir / "data" / Wording.FILE).exists():
            wording_json = Wording.read(workdir / "data")
    settings.model.attention = "xla"  # the backend of training rows may not exist here, and no such row is computed
    if settings.lora.rank and _is_stage(folder):
        settings.mesh.update({name: mesh.shape[name] for name in ("data", "fsdp", "tensor", "sequence")})
        context = RunContext(settings, folder.parent)
        policy, params, tokenizer = context.policy, context.parameters(folder.name), context.tokenizer
    else:
        _, policy, params, tokenizer = llm_connection.opened(folder, mesh, "--policy", chat_template.AUTO)
        if not dtype and not _is_stage(folder) and jax.default_backend() != "cpu":
            dtype = "bfloat16"
    if dtype:
        policy = Policy(dataclasses.replace(policy.config, dtype=dtype), policy.mesh)
    wording = Wording.of(wording_json, tokenizer) if wording_json else None
    return ServedPolicy(folder, policy, policy.decode_copy()(params), tokenizer, settings, trained, wording, own_tools)


def _defaults() -> ConfigDict:
    """Return the settings of configs/common.py."""
    made: ConfigDict = runpy.run_path(find_config("configs/common.py"))["base_config"]()
    return made


def _is_stage(folder: Path) -> bool:
    return (folder / "checkpoints").is_dir()


def _take(settings: ConfigDict, recorded: JsonObject) -> None:
    """Take over the recorded values of SECTIONS. Settings that exist no longer are left out."""
    for section in SECTIONS:
        if section in recorded:
            settings[section] = _taken(settings[section], recorded[section])


def _take_exported(settings: ConfigDict, said: Json, file: Path) -> None:
    """Take over the settings that an export may decide. Raises ValueError that names the file and a wrong value."""
    for name in (*(f"episode.{one}" for one in settings.episode), *_FROM_EXPORTS):
        section, last = name.split(".")
        part = said.get(section) if isinstance(said, dict) else None
        if not isinstance(part, dict) or last not in part:
            continue
        value = part[last]
        rule = one_of("", ARTICLE) if name == "tools.visit" else setting_ranges.rule_of(_TRAIN_RANGES, name)
        try:
            assert rule is not None
            rule.check(name, value)
        except ValueError as error:
            raise ValueError(f"{file}: {error}; {_AGAIN}") from None
        settings[section][last] = value


def _taken(own: Setting, recorded: Json) -> Setting:
    if isinstance(own, ConfigDict):
        return ConfigDict({name: _taken(value, recorded.get(name, value)) for name, value in own.items()})
    return tuple(recorded) if isinstance(own, tuple) and isinstance(recorded, list) else recorded
