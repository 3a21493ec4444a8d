"""A published language model learns to search real text. Zero-shot, RAG, SFT and DAPO are scored on the same held-out
tasks.

Command:  bash launch/language_model.sh                     fetches SmolLM2-135M-Instruct, then the line below
          python -m masksearch_jax.experiment --config=configs/language_model.py --workdir=W
          .. --config=configs/language_model.py:short       few steps: do format and hit rate rise?
          .. --config=configs/language_model.py:proof --config.seed=S --workdir=W/seed_S     one seed of the evidence
          .. --config=configs/language_model.py:rl          DAPO straight from the instruct model
          .. --config=configs/language_model.py:evolve      one round of self-evolving distillation
          .. --config.pretrained=FOLDER                     any published folder; --config.prepare.dump=FILE any dump
          python -m masksearch_jax.train --config=configs/language_model.py:agents --workdir=A          SFT on its own
          python -m masksearch_jax.compile --config=configs/language_model.py:qwen2.5-1.5b    for v6e-8
Hardware: two CPU cores and 20 GB (SFT held 14 GB, DAPO 18 GB), or a GPU with the same settings; qwen2.5-1.5b needs a
          v6e-8.
Expect:   docs/results/language_model.md.

The environment variable MASKSEARCH_DATA names the data folder. It holds the corpus of 2WikiMultiHopQA, which is masked;
articles of HotpotQA, which are only searched; and 100 HotpotQA questions, which are never trained on. Without the
folder the run uses the toy encyclopedia.
"""

import dataclasses
import os
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.configs import common, dapo, evolve
from masksearch_jax.configs.prepare import shares

_CORPUS, _ARTICLES, _QUESTIONS = "2wiki_corpus.json.gz", "hotpotqa_100_corpus.json.gz", "hotpotqa_100.json.gz"


def get_config(arg: str = "") -> ConfigDict:
    common.check_argument(__file__, arg, *VARIANTS)
    config = dapo.get_config()
    config.workflow = "language_model"
    config.pretrained = "runs/smollm2"  # bash launch/smollm2.sh makes it
    config.model.attention = "auto"  # the backend that suits the device; docs/guides/attention.md
    config.mesh.update({"data": 1, "fsdp": -1})  # two CPU devices shard weights and optimizer
    config.policies = ("untrained", "rag", "sft", "dapo")
    _data(config)
    _episodes(config)
    _training(config)
    if arg:
        VARIANTS[arg](config)
    return config


def _data(config: ConfigDict) -> None:
    """Set passages of 60 words, masks that another passage corroborates, and the model's own tokenizer and template."""
    folder = Path(os.environ.get("MASKSEARCH_DATA", ""))
    real = bool(os.environ.get("MASKSEARCH_DATA")) and (folder / _CORPUS).is_file()
    prepare = config.prepare
    prepare.tokenizer_dir = config.get_ref("pretrained")
    prepare.passages.update({"words": 60, "minimum": 15})
    # The system message says what the tags mean. The user message says what to fill in; a question, too, ends in a
    # mask.
    prepare.tasks.update({"titles": True, "epochs": 4, "chat": "auto", "system": "default"})
    prepare.tasks.update({"instruction": "clues", "question_instruction": "clues"})
    prepare.tasks.span_weights.update({"date": 0.25, "number": 0.25})
    if real:
        prepare.dump, prepare.search_only = str(folder / _CORPUS), str(folder / _ARTICLES)
        prepare.benchmarks.hotpotqa = str(folder / _QUESTIONS)
        prepare.corroborated = True
        prepare.shares = shares(0.8, 0.05, 0.15)
        # No training task repeats a held-out passage, or an article or a question of the benchmark.
        prepare.filters.update({"near_duplicate": 0.8, "benchmarks": (f"hotpotqa={folder / _QUESTIONS}",)})


def _episodes(config: ConfigDict) -> None:
    config.search.hits = 2
    config.episode.update({
        "turns": 4, "turn_tokens": 96, "observation_tokens": 224, "total_tokens": 896, "deadline_steps": 0,
    })  # fmt: skip
    config.rollout.update({
        # Each program unrolls 30 layers and takes ten seconds to compile, so there are few. An observation is read in
        # two halves.
        "slots": 32, "steps": 8, "prompt_rows": 4, "prompt_lengths": (256,), "extend_rows": (4,),
        "extend_tokens": (112,), "context_lengths": (512,),
    })  # fmt: skip
    config.evaluate.episodes.update({"ramp_1": 200, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 0})
    config.evaluate.benchmarks.update(dict.fromkeys(config.evaluate.benchmarks, 0))
    config.evaluate.benchmarks.hotpotqa = 100
    config.validation_tasks, config.validation_episodes = ("ramp_1",), 48


def _training(config: ConfigDict) -> None:
    config.synthesize.update({"wording": "cloze", "retry": 1.0, "association_tasks": 0, "probe_tasks": 200})
    config.synthesize.styles.update({"title": 0.9, "clue": 0.1, "passage": 0.0, "associated": 0.0})
    config.synthesize.examples.update({"ramp_1": 1500, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0})
    config.sft.update({
        # A demonstration has 430 tokens, or 630 with a second search: rows of this length are 0.85 full, of 1,024 0.74.
        "steps": 120, "rows": 2, "row_length": 1536, "augment": False, "eval_every": 0, "log_every": 1,
        "checkpoint_every": 10, "curriculum": ((None, (("ramp_1", 1.0),)),),
    })  # fmt: skip
    config.sft.optimizer.update({
        "kind": "adamw", "learning_rate": 2e-4, "warmup": 10, "total_steps": 120, "weight_decay": 0.01,
    })  # fmt: skip
    config.dapo.update({
        "iterations": 24, "prompts": 8, "group_size": 8, "groups": 8, "max_generations": 1, "minibatches": 1,
        # A search for the title or the clue finds the answer of three tasks in five. In the groups of the others all
        # rewards are mostly equal.
        "answerable_only": True,
        "augment": False, "eval_every": 0, "checkpoint_every": 1, "show_every": 1,
        "curriculum": ((None, (("ramp_1", 1.0),)),), "row_lengths": (1536,), "rows": 2,
        "micro_batches": (1, 2, 3, 4, 5, 6, 8, 32),  # a padded row costs as much as a full one
        "share_prefixes": True,  # 0.6 of the tokens of an update were shared
        "old_logprobs": "sampler",  # the sampler computes in float32, as the trainer does
    })  # fmt: skip
    config.dapo.reward.update({"overlong_limit": 224, "overlong_cache": 64})
    config.dapo.optimizer.update({"kind": "adamw", "learning_rate": 5e-5, "warmup": 2})


def _short(config: ConfigDict) -> None:
    config.sft.steps = config.sft.optimizer.total_steps = 40
    config.policies = ("untrained", "sft")
    config.evaluate.episodes.ramp_1, config.evaluate.benchmarks.hotpotqa = 64, 24


def _proof(config: ConfigDict) -> None:
    config.policies = ("untrained", "few_shot", "rag", "sft", "sft_more", "dapo")
    config.evaluate.episodes.update({"ramp_1": 500, "ramp_2": 100, "ramp_3": 100, "ramp_4": 100})
    config.rollout.prompt_lengths = (256, 384)  # a third of the prompts with three and four masks is longer


def _rl(config: ConfigDict) -> None:
    config.warm_start = False
    config.policies = ("untrained", "dapo")


def _evolve(config: ConfigDict) -> None:
    config.workflow, config.stage = "evolve", "sft"
    config.evolve = evolve.get_config().evolve
    config.evolve.update({"rounds": ((("ramp_1", 600),),), "steps": 40, "control": True})


def _qwen(config: ConfigDict) -> None:
    """Set Qwen2.5-1.5B-Instruct on eight chips, with the data and episodes of the small model."""
    from masksearch_jax.model.published import families  # imported here, so that other configs import no jax

    config.pretrained = "runs/qwen2.5-1.5b-instruct"
    config.topology = "v6e-8"
    config.mesh.update({"data": 1, "fsdp": -1, "tensor": 2})
    config.sft.rows = config.dapo.rows = 4  # over which the mesh divides them
    config.dapo.share_prefixes = False  # the TPU kernels of model.attention have no mask for it
    chosen = {"dtype": "bfloat16", "param_dtype": "float32", "remat": "full", "attention": "auto"}
    model = dataclasses.asdict(families.named("qwen2.5-1.5b", **chosen))
    del model["lora"]  # adapters have a section of their own
    config.model = ConfigDict(model)


def _agents(config: ConfigDict) -> None:
    """Set the paper's agents as the teacher: the model itself plays planner, rewriter, observer and judge."""
    config.stage = "sft"
    config.synthesize.update({"teacher": "agents"})
    config.synthesize.agents.update({"judge": "both", "passages": 2, "workers": 32, "tasks": 64})
    config.synthesize.examples.ramp_1 = 64
    config.llm.update({"model": config.get_ref("pretrained"), "max_tokens": 96, "total_tokens": 1024})
    config.llm.concurrency = 32


VARIANTS = {
    "short": _short, "proof": _proof, "rl": _rl, "evolve": _evolve, "agents": _agents, "qwen2.5-1.5b": _qwen,
}  # fmt: skip
