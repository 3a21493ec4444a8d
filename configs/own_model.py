"""Any published model learns to search your corpus: zero-shot, RAG, SFT and DAPO, scored on the same held-out tasks.

Command:  python -m masksearch_jax.experiment --config=configs/own_model.py --config.pretrained=ORG/NAME
              --config.prepare.dump=FILE --workdir=W
          .. --config.pretrained=ORG/NAME@REVISION          a branch, a tag or a commit of the Hugging Face Hub
          .. --config.pretrained=FOLDER                     a published folder
          .. --config=configs/own_model.py:short            few steps: does everything fit together?
          python -m masksearch_jax.train (prepare, synthesize, evaluate) --config=configs/own_model.py ..     one stage
Hardware: two CPU cores and 20 GB for a model of 135 million parameters (hours), or a GPU with the same settings.
          Larger models: docs/guides/memory.md, slices: configs/recipes.py.
Expect:   W/report.html with the table of policies. For SmolLM2-135M on 2WikiMultiHopQA, with settings of its own:
          docs/results/language_model.md.

What the model decides (workflows/pretrained_model.py), unless the command line sets it: the learning rates; adapters,
if it has more than a billion parameters; prompts without a chat template, if its folder holds none; shorter episodes,
if its context is shorter. What the corpus decides: kinds of tasks that it gives nothing of are left out.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, dapo
from masksearch_jax.configs.prepare import shares


def get_config(arg: str = "") -> ConfigDict:
    common.check_argument(__file__, arg, *VARIANTS)
    config = dapo.get_config()
    config.workflow = "language_model"
    config.policies = ("untrained", "rag", "sft", "dapo")
    config.empty_tasks = "skip"
    config.model.attention = "auto"  # the backend that suits the device; docs/guides/attention.md
    config.mesh.update({"data": 1, "fsdp": -1})  # weights and optimizer are shared by the devices
    # To train all of a billion weights takes 20 GB: float32 weights, gradients and two moments, and the sampler's copy.
    # That is more than a small machine, or a chip of 16 GB, has.
    config.lora.rank, config.adapters_above = 16, 1_000_000_000
    _data(config)
    _episodes(config)
    _training(config)
    common.follow_model(
        config, "prepare.tasks.chat", "prepare.tasks.system", "prepare.passages.words", "prepare.passages.minimum",
        "episode.turn_tokens", "episode.observation_tokens", "episode.total_tokens", "rollout.prompt_lengths",
        "rollout.extend_tokens", "rollout.context_lengths", "dapo.reward.overlong_limit", "dapo.reward.overlong_cache",
    )  # fmt: skip
    if arg:
        VARIANTS[arg](config)
    return config


def _data(config: ConfigDict) -> None:
    """Set passages of 60 words, masks that another passage corroborates, and the model's own tokenizer and template."""
    prepare = config.prepare
    prepare.dump = ""  # the command line names it
    prepare.tokenizer_dir = config.get_ref("pretrained")
    prepare.shares = shares(0.8, 0.05, 0.15)
    prepare.passages.update({"words": 60, "minimum": 15})
    prepare.corroborated = True  # mask only what a search can find: docs/guides/preparation.md, Small corpora
    prepare.filters.near_duplicate = 0.8
    # The system message says what the tags mean. The user message says what to fill in; a question, too, ends in a
    # mask.
    prepare.tasks.update({"titles": True, "epochs": 4, "chat": "auto", "system": "default"})
    prepare.tasks.update({"instruction": "clues", "question_instruction": "clues"})


def _episodes(config: ConfigDict) -> None:
    config.search.hits = 2
    config.episode.update({
        "turns": 4, "turn_tokens": 96, "observation_tokens": 256, "total_tokens": 896, "deadline_steps": 0,
    })  # fmt: skip
    config.rollout.update({
        # Each program takes long to compile, so there are few. An observation is read in two halves.
        "slots": 32, "steps": 8, "prompt_rows": 4, "prompt_lengths": (256, 384), "extend_rows": (4,),
        "extend_tokens": (128,), "context_lengths": (512,),
    })  # fmt: skip
    config.evaluate.episodes.update({"ramp_1": 200, "ramp_2": 50, "ramp_3": 50, "ramp_4": 50, "qa": 50})
    config.validation_tasks, config.validation_episodes = ("ramp_1",), 48


def _training(config: ConfigDict) -> None:
    config.synthesize.update({"wording": "cloze", "retry": 1.0, "association_tasks": 0, "probe_tasks": 200})
    config.synthesize.styles.update({"title": 0.9, "clue": 0.1, "passage": 0.0, "associated": 0.0})
    config.synthesize.examples.update({"ramp_1": 1500, "ramp_2": 400, "ramp_3": 100, "ramp_4": 50})
    config.sft.update({
        # A demonstration has 400 to 700 tokens, so a row holds two or three.
        "steps": 120, "rows": 2, "row_length": 1536, "augment": False, "eval_every": 0, "log_every": 1,
        "checkpoint_every": 10,
        "curriculum": ((None, (("ramp_1", 0.7), ("ramp_2", 0.2), ("ramp_3", 0.07), ("ramp_4", 0.03))),),
    })  # fmt: skip
    config.sft.optimizer.update({"warmup": 10, "total_steps": 120, "weight_decay": 0.01})
    config.dapo.update({
        "iterations": 16, "prompts": 8, "group_size": 8, "groups": 8, "max_generations": 1, "minibatches": 2,
        # In the groups of tasks whose answer a search does not find all rewards are mostly equal.
        "answerable_only": True, "augment": False, "eval_every": 0, "checkpoint_every": 1, "show_every": 1,
        "curriculum": ((None, (("ramp_1", 1.0),)),), "row_lengths": (1024,), "rows": 2,
        "micro_batches": (1, 2, 3, 4, 5, 6, 8, 16, 32),  # a padded row costs as much as a full one
    })  # fmt: skip
    config.dapo.reward.update({"overlong_limit": 224, "overlong_cache": 64})
    config.dapo.optimizer.warmup = 2


def _short(config: ConfigDict) -> None:
    config.sft.steps = config.sft.optimizer.total_steps = 20
    config.dapo.iterations = 2
    config.evaluate.episodes.update({"ramp_1": 24, "ramp_2": 0, "ramp_3": 0, "ramp_4": 0, "qa": 0})


VARIANTS = {"short": _short}
