"""The allowed values of each setting of the configs, one entry per setting.

In a name, '*' stands for any name of that section. settings.py checks what depends on several settings.
"""

import os
import re

from masksearch_jax.agents import synthesis
from masksearch_jax.data.curriculum import SOURCE_ALLOWED, TOOL_WARMUP, Curriculum
from masksearch_jax.evals import report
from masksearch_jax.model import config as model_config
from masksearch_jax.retrieval.index import index_settings as index
from masksearch_jax.retrieval.service import remote_settings
from masksearch_jax.rl import advantages, loss, rewards
from masksearch_jax.rl.own_reward import read_weights
from masksearch_jax.runtime import trackers
from masksearch_jax.runtime.types import Json
from masksearch_jax.scoring import benchmark_metrics
from masksearch_jax.teachers import thoughts
from masksearch_jax.text import instructions
from masksearch_jax.text.chat_template import read_variables
from masksearch_jax.trainers import alarms, optimizer, step_trace
from masksearch_jax.workflows.setting_rules import (
    Rule,
    buckets,
    flag,
    is_number,
    is_sequence,
    number,
    one_of,
    some_of,
    text,
    texts,
    whole,
)

INDICES = ("train", "validation", "all")
SPANS = ("rules", "llm", "perplexity")
ROUND_TASKS = ("ramp_1", "ramp_2", "ramp_3", "ramp_4", "qa")  # that the rounds of workflows/evolve.py may ask for
TASKS = (*ROUND_TASKS, TOOL_WARMUP, SOURCE_ALLOWED)
_SEED = whole(0, (1 << 63) - 1)
_SHARE = number(0, 1)
_PART = number(0, 1, above=True)
_SECONDS = number(0, above=True)
_OFF_OR_MORE = whole(0, says="a whole number of at least 0, which turns it off")
_EPISODES = whole(-1, says="a whole number of at least 0, or -1 for all")
_EVERY = whole(1, says="a whole number of at least 1; more than there are steps means at the end alone")
_DTYPE = one_of(*model_config.DTYPES)
_POLICIES = (*report.POLICIES, *report.OPTIONAL_POLICIES)
_CHAT = Rule(
    "'' for a base model, 'auto' for the chat template that the tokenizer's folder holds, or a file FILE.jinja",
    lambda value: isinstance(value, str) and (value in ("", "auto") or value.endswith(".jinja")),
)
_CHAT_VARIABLES = Rule(
    "a tuple of name=value, such as ('enable_thinking=False',)",
    lambda value: texts().admits(value) and bool(read_variables(value) or not value),
)

_WEIGHTS = Rule(
    "a tuple of part=weight, such as ('brevity=0.5',)",
    lambda value: texts().admits(value) and read_weights(value) is not None,
)


def _is_curriculum(value: Json) -> bool:
    if not is_sequence(value):
        return False
    phases = []
    for phase in value:
        examples, weights = phase
        for task, weight in weights:
            if task not in TASKS:
                raise ValueError(f"task {task!r} is none of {TASKS}")
            if not is_number(weight):
                raise ValueError(f"the weight {weight!r} of task {task} is no number")
        if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int)):
            raise ValueError(f"{examples!r} examples: a whole number, or None in the last phase")
        phases.append((examples, dict(weights)))
    Curriculum(phases)
    return True


def _is_rounds(value: Json) -> bool:
    return (
        is_sequence(value)
        and bool(value)
        and all(
            bool(wanted) and all(task in ROUND_TASKS and whole(1).admits(count) for task, count in wanted)
            for wanted in value
        )
    )


def _is_variable(value: Json) -> bool:
    """Return True for '' and for the name of a variable: one that is set, or looks like a name. A key is neither."""
    if not isinstance(value, str):
        return False
    return not value or value in os.environ or bool(re.fullmatch(r"[A-Z][A-Z0-9]{0,19}(_[A-Z0-9]{1,19}){0,5}", value))


CURRICULUM = Rule("((examples, ((task, weight), ..)), ..), with None examples in the last phase alone", _is_curriculum)
_VARIABLE = Rule(
    "the name of an environment variable such as OPENAI_API_KEY, never the key itself; export the key under that name",
    _is_variable,
    secret=True,
)

_LLM = {
    "url": text(), "model": text(), "key_variable": _VARIABLE, "json_mode": flag(),
    "limit_field": one_of("max_tokens", "max_completion_tokens"), "chat": _CHAT, "total_tokens": whole(2),
    "chat_variables": _CHAT_VARIABLES,
    "temperature": number(), "max_tokens": whole(1), "timeout_s": _SECONDS, "retries": whole(0),
    "omit": some_of("temperature", "seed", "max_tokens", empty=True), "concurrency": whole(1),
    "requests_per_minute": _OFF_OR_MORE, "tokens_per_minute": _OFF_OR_MORE,
    "prompt_price": number(), "completion_price": number(), "budget": number(),
}  # fmt: skip
_OPTIMIZER = {
    "kind": one_of(*optimizer.KINDS), "learning_rate": number(), "adam_learning_rate": number(),
    "schedule": one_of(*optimizer.SCHEDULES), "warmup": whole(0), "total_steps": whole(0), "floor": _SHARE,
    "clip": number(), "b1": _SHARE, "b2": _SHARE, "eps": number(), "mu_dtype": one_of(*optimizer.MU_DTYPES),
    "weight_decay": number(),
}  # fmt: skip
_ALARM = {"threshold": number(), "window": whole(1), "action": one_of(*alarms.ACTIONS)}
_ROLLBACK = {"after": _OFF_OR_MORE, "most": whole(1), "learning_rate_scale": _PART}
_JUDGING = {"timeout_s": _SECONDS, "retries": whole(0), "attempts": whole(1)}
_MESH = Rule(
    "a whole number of at least 1, or -1 for the devices that remain",
    lambda value: whole(-1).admits(value) and value != 0,
)
_PROFILE = Rule(
    "'' or FROM:TO, such as 10:13 for steps 10, 11 and 12",
    lambda value: isinstance(value, str) and (not value or bool(step_trace.parse(value))),
)
_ALL_OR_SOME = Rule(
    "a whole number of at least 1, or -1 for all",
    lambda value: whole(-1).admits(value) and value != 0,
)
_PREPARE = {
    "dump": text(), "corpus.*": text(), "entities": whole(1), "corroborating_articles": _SHARE, "seed": _SEED,
    "skip_bad": flag(), "overwrite": flag(), "spans": one_of(*SPANS), "perplexity.start": text(),
    "perplexity.share": _PART, "corroborated": flag(), "splits": text(),
    "shares.*": _SHARE, "passages.words": whole(1), "passages.minimum": whole(0), "tokenizer_dir": text(),
    "tokenizer.vocab_size": whole(0), "tokenizer.max_texts": whole(0), "tokenizer.character_coverage": _PART,
    "tokenizer.digit_pairs": flag(), "tokenizer.added_tags": flag(), "filters.near_duplicate": _SHARE,
    "filters.benchmarks": texts(), "filters.ngram": whole(2), "tasks.epochs": whole(1), "tasks.eval_epochs": whole(1),
    "tasks.answer_form": one_of("spans", "paragraph"), "tasks.instruction": text(),
    "tasks.question_instruction": text(), "tasks.titles": flag(), "tasks.chat": _CHAT, "tasks.system": text(),
    "tasks.chat_variables": _CHAT_VARIABLES,
    "tasks.instruction_place": one_of(*instructions.PLACES), "tasks.span_weights.*": number(), "questions": text(),
    "benchmarks.*": text(), "toy_benchmarks": whole(0), "tool_warmup": flag(), "newer_dump": text(),
    "search_only": text(), "augment.*": flag(),
    "beam.runner": one_of("", "DirectRunner", "DataflowRunner"), "beam.options": texts(), "beam.shard_mb": _SECONDS,
    "beam.index": text(), "beam.folder": text(), "indices": some_of(*INDICES, empty=True),
    "retrieval.encoder": one_of(*index.ENCODERS), "retrieval.encoder_dir": text(),
    "retrieval.encoder_dtype": one_of(*index.ENCODER_DTYPES),
    "retrieval.encoder_devices": one_of(*index.ENCODER_DEVICES), "retrieval.dims": whole(1),
    "retrieval.index": one_of(*index.INDEXES), "retrieval.scann.method": one_of(*index.SCANN_METHODS),
    "retrieval.scann.reordering": one_of(*index.SCANN_REORDERINGS), "retrieval.scann.leaves": whole(0),
    "retrieval.scann.leaves_to_search": whole(0), "retrieval.scann.reorder": whole(0),
    "retrieval.scann.dims_per_block": whole(1), "retrieval.scann.anisotropic_threshold": _SHARE,
    "retrieval.scann.training_sample": whole(1), "retrieval.scann.soar": number(),
    "retrieval.scann.shard_size": whole(1), "retrieval.hybrid": flag(), "retrieval.recall_floor": _SHARE,
    "retrieval.near_duplicate": _SHARE, "retrieval.exclusion": one_of(*index.EXCLUSIONS),
    **{f"llm.{name}": rule for name, rule in _LLM.items()},
}  # fmt: skip
_TRAIN = {
    "workflow": one_of("quickstart", "language_model", "evolve", "grid"), "stage": one_of("sft", "dapo"),
    "topology": text(), "seed": _SEED, "warm_start": flag(), "cpu_devices": whole(0), "mesh.*": _MESH,
    "mesh.dcn_data": whole(1), "distributed.coordinator": text(),
    "distributed.processes": whole(1), "distributed.process_id": whole(0), "distributed.*": whole(1),
    "pretrained": text(), "pretrained_revision": text(), "adapters_above": _OFF_OR_MORE,
    "empty_tasks": one_of("skip", "refuse"), "start": text(), "adapters": text(), "tensorboard": flag(),
    "profile": _PROFILE,
    "wandb.mode": one_of(*trackers.MODES), "wandb.*": text(),
    "validation_episodes": _ALL_OR_SOME,
    "validation_tasks": some_of(*TASKS), "policy": one_of(*_POLICIES), "policies": some_of(*_POLICIES),
    # --- model ---
    "model.mlp": one_of(*model_config.MLPS), "model.remat": one_of(*model_config.REMATS),
    "model.attention": one_of(*model_config.ATTENTIONS), "model.dtype": _DTYPE, "model.param_dtype": _DTYPE,
    "model.rope_scaling": one_of(*model_config.ROPE_SCALINGS), "model.rope_base": number(0, above=True),
    "model.rope_fraction": _PART, "model.rope_factor": number(0, above=True), "model.norm_eps": number(),
    "model.token_shift": whole(0), "model.window": whole(0), "model.local_layers": buckets(0, empty=True),
    **{f"model.{name}": whole(1) for name in ("vocab_size", "layers", "embed", "heads", "kv_heads", "head_dim", "ff",
                                              "scan_unroll", "rope_original_length")},
    **{f"model.{name}": flag() for name in ("qkv_bias", "qk_norm", "tie_embeddings", "smear_keys", "norm_plus_one",
                                            "post_norms", "scale_embeddings")},
    "model.*": number(),
    "lora.rank": _OFF_OR_MORE, "lora.alpha": number(0, above=True), "lora.targets": some_of(*model_config.LINEAR),
    "lora.dtype": _DTYPE, "lora.base_quantisation": one_of(*model_config.BASE_QUANTISATIONS),
    # --- search and episodes ---
    "search.hits": whole(1), "search.exclusion": one_of(*index.EXCLUSIONS), "search.url": text(),
    "search.timeout_s": _SECONDS, "search.deadline_s": _SECONDS, "search.retries": whole(0),
    "search.failures": whole(1), "search.cooldown_s": number(), "search.ready_s": number(),
    "search.fallback": one_of(*remote_settings.FALLBACKS), "tools.search": text(), "tools.visit": text(),
    "tools.more": texts(), "tools.snippet_words": _OFF_OR_MORE, "episode.deadline_steps": _OFF_OR_MORE,
    "episode.*": whole(1), "rollout.top_p": _PART, "rollout.top_k": _OFF_OR_MORE,
    "rollout.context_lengths": buckets(empty=True), "rollout.long_prompts": one_of("skip", "refuse"),
    **{f"rollout.{name}": buckets() for name in ("prompt_lengths", "extend_rows", "extend_tokens")},
    "rollout.*": whole(1),
    # --- demonstrations ---
    "synthesize.teacher": one_of("rules", "agents", "official"), "synthesize.styles.*": _SHARE,
    "synthesize.retry": _SHARE, "synthesize.attempts": whole(1), "synthesize.agents.judge": one_of(*synthesis.JUDGES),
    "synthesize.agents.judge_recall": _SHARE, "synthesize.agents.tasks": whole(0),
    "synthesize.agents.*": whole(1), "synthesize.official.file": text(),
    "synthesize.official.accuracy": number(), "synthesize.wording": one_of(*thoughts.STYLES),
    "synthesize.speech.shared_words": whole(0), "synthesize.speech.*": whole(1), "synthesize.*": whole(0),
    # --- training ---
    "sft.steps": whole(1), "sft.rows": whole(1), "sft.row_length": whole(2), "sft.micro_batches": whole(1),
    "sft.curriculum": CURRICULUM, "sft.share": _PART, "sft.augment": flag(), "sft.seed_offset": whole(0),
    "dapo.iterations": whole(1), "dapo.prompts": whole(1),
    "dapo.group_size": whole(2, says="a whole number of at least 2: the advantage is over the others of a group"),
    "dapo.groups": whole(1), "dapo.dynamic_sampling": flag(), "dapo.max_generations": whole(1),
    "dapo.carry_over": flag(), "dapo.temperature": number(0, above=True), "dapo.curriculum": CURRICULUM,
    "dapo.augment": flag(), "dapo.answerable_only": flag(), "dapo.reward.answer": one_of(*rewards.ANSWER_REWARDS),
    "dapo.reward.kappa": number(0, above=True), "dapo.reward.overlong_limit": _OFF_OR_MORE,
    "dapo.reward.overlong_cache": whole(0), "dapo.reward.file": text(), "dapo.reward.weights": _WEIGHTS,
    "dapo.reward.*": number(), "dapo.advantage": one_of(*advantages.MODES),
    "dapo.clip_low": _SHARE, "dapo.clip_high": number(), "dapo.dual_clip": number(),
    "dapo.aggregation": one_of(*loss.AGGREGATIONS), "dapo.tis_cap": number(), "dapo.staleness": whole(0, 1),
    "dapo.minibatches": whole(1), "dapo.share_prefixes": flag(),
    "dapo.row_lengths": buckets(2), "dapo.rows": whole(1), "dapo.micro_batches": buckets(),
    **{f"{stage}.max_without_update": _OFF_OR_MORE for stage in ("sft", "dapo")},
    **{f"{stage}.rollback.{name}": rule for stage in ("sft", "dapo") for name, rule in _ROLLBACK.items()},
    "alarms.sampler_correlation.threshold": number(-1, 1),
    **{f"alarms.{name}.{field}": rule for name in alarms.ALARMS for field, rule in _ALARM.items()
       if (name, field) != ("sampler_correlation", "threshold")},
    **{f"{stage}.{name}": _EVERY for stage in ("sft", "dapo") for name in ("log_every", "checkpoint_every")},
    **{f"{stage}.eval_every": _OFF_OR_MORE for stage in ("sft", "dapo")}, "dapo.show_every": _OFF_OR_MORE,
    "dapo.old_logprobs": one_of("trainer", "sampler"),
    "trajectories.rate": _SHARE, "trajectories.max_bytes": whole(1 << 20), "trajectories.after_update": flag(),
    # --- evaluation and workflows ---
    "evaluate.split": one_of("train", "validation", "test"), "evaluate.index": one_of(*INDICES, "fresh"),
    "evaluate.episodes.*": _EPISODES, "evaluate.benchmarks.*": _EPISODES, "evaluate.examples": whole(1),
    "evaluate.samples": _OFF_OR_MORE, "evaluate.temperature": number(0, above=True), "benchmarks.custom": text(),
    "benchmarks.episodes": _EPISODES, "benchmarks.metric": one_of(*benchmark_metrics.METRICS),
    "benchmarks.rules": one_of(*benchmark_metrics.RULES),
    "evolve.rounds": Rule(
        "((task, how many), ..) for each round, of the tasks ramp_1 to ramp_4 and qa, 1 or more of each", _is_rounds),
    "evolve.samples": whole(1), "evolve.keep": whole(1), "evolve.judge": one_of("rules", "llm"),
    "evolve.recall": _PART, "evolve.temperature": number(0, above=True), "evolve.steps": whole(1),
    "evolve.control": flag(), "evolve.learning_rate_scale": number(0, above=True),
    "grid.at_once": whole(1), "grid.columns": texts(),
    "grid.seeds": Rule("a tuple of different whole numbers of at least 0, one or more", lambda value: is_sequence(value)
                       and bool(value) and all(map(_SEED.admits, value)) and len(set(value)) == len(value)),
    **{f"{section}.{name}": rule for section in ("dapo.judge", "evolve.judging") for name, rule in _JUDGING.items()},
    **{f"{section}.optimizer.{name}": rule for section in ("sft", "dapo") for name, rule in _OPTIMIZER.items()},
    **{f"llm.{name}": rule for name, rule in _LLM.items()},
    **{f"prepare.{name}": rule for name, rule in _PREPARE.items()},
}  # fmt: skip
_HTTP = {
    "host": text(), "port": whole(0, 65535), "connections": whole(1), "read_s": _SECONDS, "idle_s": _SECONDS,
    "drain_s": number(), "idle_per_address": whole(1), "slow_per_address": whole(1),
}  # fmt: skip
_SERVE_SEARCH = {
    "indices": Rule("a tuple of names of W/data/index, one or more",
                    lambda value: texts().admits(value) and bool(value)),
    "k": whole(1), "threads": whole(1), "batch": whole(1), "wait_ms": number(), "limits.query_chars": whole(16),
    "limits.body_bytes": whole(1024), "limits.*": whole(1), "pending": whole(1), **_HTTP,
}  # fmt: skip
_SERVE = {
    "name": text(), "index": one_of(*INDICES, "fresh"), "search_url": text(), "slots": whole(1), "steps": whole(1),
    "total_tokens": Rule("a whole number of at least 2, or 0 for those of an episode",
                         lambda value: whole(0).admits(value) and value != 1),
    "pending": whole(1), "dtype": one_of("", *model_config.DTYPES), "warm_up": flag(), "mesh.*": _MESH,
    "mesh.dcn_data": whole(1), "body_bytes": whole(1024), **_HTTP,
}  # fmt: skip
# Kind of config -> {name: rule}. An exact name wins over one with '*', and a longer section over a shorter one.
RANGES = {"train": _TRAIN, "prepare": _PREPARE, "serve_search": _SERVE_SEARCH, "serve": _SERVE}
# These settings are checked together where they are read (workflows/grid.py).
READ_AS_A_WHOLE = ("grid.methods", "grid.groups", "stages.")


def rule_of(ranges: dict[str, Rule], name: str) -> Rule | None:
    """Return the rule of a setting: its own, or that of its section. None if there is neither."""
    if name in ranges:
        return ranges[name]
    section = name
    while section:
        section = section.rpartition(".")[0]
        if f"{section}.*" in ranges:
            return ranges[f"{section}.*"]
    return None
