"""Recipes for published models on real TPU slices. A recipe's name is an argument of the training and evaluation
configs.

Command:  python -m masksearch_jax.compile --config=configs/dapo.py:qwen2.5-7b          fits? (needs no TPU, no data)
          python -m masksearch_jax.prepare --config=configs/dapo.py:qwen2.5-7b --config.pretrained=HF_FOLDER
              --config.prepare.dump=FILE --workdir=W               once, on a CPU machine; then synthesize, likewise
          python -m masksearch_jax.train --config=configs/dapo.py:qwen2.5-7b --config.pretrained=HF_FOLDER
              --workdir=W                                          on every host of the slice
          python -m masksearch_jax.compile --config=configs/dapo.py:qwen2.5-7b@v5p-8192 --topology=v5p-12288 ..
Hardware: the slice of the recipe. Expect: docs/recipes.md, which holds what compile printed.

All recipes compute in bfloat16, keep master weights and Adam moments in float32, and recompute layers in the backward
pass. Weights are sharded over fsdp x tensor for training and over tensor alone for sampling. So `tensor` grows with the
model until the decode copy leaves room for the cache; it stays within a host and divides the heads.
"""

import dataclasses

from ml_collections import ConfigDict

from masksearch_jax.configs.prepare import shares


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings that differ between recipes.

    model: a name of model/published/families.py. topology: the slice. data, tensor: sizes of mesh axes; fsdp takes the
    remaining chips. length: tokens of an episode and of a training row. rows_a_shard: rows of a micro-batch that one
    data x fsdp shard computes at a time. slots_a_shard: episodes that one shard decodes at a time. batch: least number
    of DAPO trajectories per optimizer step. slices: number of slices of this topology, which the data axis spans.
    chips: number of chips of all slices.
    """

    model: str
    topology: str
    tensor: int
    data: int = 1
    length: int = 4096
    rows_a_shard: int = 1
    slots_a_shard: int = 16
    batch: int = 128
    slices: int = 1
    chips: int = 0


# Name -> recipe. The part before @ is the model; a name without @ is the model's smallest slice that leaves room.
RECIPES = {
    "qwen2.5-0.5b": Recipe("qwen2.5-0.5b", "v6e-8", 1, chips=8),
    "qwen2.5-0.5b@v5e-16": Recipe("qwen2.5-0.5b", "v5e-16", 2, chips=16),
    "qwen2.5-1.5b": Recipe("qwen2.5-1.5b", "v6e-8", 2, chips=8),
    "qwen2.5-1.5b@v5e-64": Recipe("qwen2.5-1.5b", "v5e-64", 4, chips=64),
    "qwen2.5-3b": Recipe("qwen2.5-3b", "v6e-16", 4, chips=16),
    "qwen2.5-3b@v5p-32": Recipe("qwen2.5-3b", "v5p-32", 2, chips=16),
    "qwen2.5-7b": Recipe("qwen2.5-7b", "v5p-128", 4, chips=64),
    "qwen2.5-7b@v6e-64": Recipe("qwen2.5-7b", "v6e-64", 4, chips=64),
    "qwen2.5-7b@v5e-256": Recipe("qwen2.5-7b", "v5e-256", 4, chips=256),
    "qwen2.5-7b@v5p-8192": Recipe("qwen2.5-7b", "v5p-8192", 4, data=16, chips=4096, batch=4096),
    "qwen2.5-7b@2xv5p-128": Recipe("qwen2.5-7b", "v5p-128", 4, data=2, slices=2, chips=128),
    "llama3.2-1b": Recipe("llama3.2-1b", "v6e-8", 2, chips=8),
    "llama3.2-1b@v5e-16": Recipe("llama3.2-1b", "v5e-16", 2, chips=16),
    "llama3.2-3b": Recipe("llama3.2-3b", "v6e-16", 4, chips=16),
    "llama3.2-3b@v5p-32": Recipe("llama3.2-3b", "v5p-32", 2, chips=16),
    "llama3.1-8b": Recipe("llama3.1-8b", "v5p-128", 4, chips=64),
    "llama3.1-8b@v6e-64": Recipe("llama3.1-8b", "v6e-64", 4, chips=64),
}


def apply(config: ConfigDict, name: str) -> None:
    """Change a config to the recipe `name`."""
    from masksearch_jax.model.published import families  # imported here, so that configs of the toy import no jax

    recipe = RECIPES[name]
    shards = recipe.chips // recipe.tensor
    rows, slots = shards * recipe.rows_a_shard, shards * recipe.slots_a_shard
    config.topology = recipe.topology  # the slice that compile compiles for
    config.mesh.update({"data": recipe.data, "fsdp": -1, "tensor": recipe.tensor, "dcn_data": recipe.slices})
    chosen = {"dtype": "bfloat16", "param_dtype": "float32", "remat": "full", "attention": "auto"}
    model = dataclasses.asdict(families.named(recipe.model, **chosen))
    del model["lora"]  # adapters have a section of their own
    config.model = ConfigDict(model)
    config.search.hits = 3
    config.episode.update({
        "turns": 8, "turn_tokens": 512, "observation_tokens": 512, "total_tokens": recipe.length, "deadline_steps": 0,
    })  # fmt: skip
    config.synthesize.agents.update({"query_words": 24, "thought_words": 100})
    _data(config)
    # Prefill and extend batches are sharded like the slots.
    config.rollout.update({
        "slots": slots, "steps": 16, "prompt_rows": shards, "prompt_lengths": (512, 1024), "extend_rows": (shards,),
        "extend_tokens": (128, 512), "context_lengths": (1024, 2048), "search_threads": 4,
    })  # fmt: skip
    if "sft" in config:
        config.sft.update({"rows": 4 * rows, "micro_batches": 4, "row_length": recipe.length, "augment": False})
        config.sft.eval_every = 0
        config.sft.optimizer.update({"kind": "adamw", "learning_rate": 1e-5, "warmup": 100, "weight_decay": 0.01})
    if "dapo" in config:
        trajectories = max(recipe.batch, rows)
        micro = -(-trajectories // rows)
        config.dapo.update({
            "prompts": trajectories // 2, "group_size": 8, "groups": trajectories // 2, "minibatches": 4,
            "augment": False, "row_lengths": (recipe.length,), "rows": rows, "micro_batches": _buckets(micro),
        })  # fmt: skip
        config.dapo.reward.update({"overlong_limit": recipe.length // 2, "overlong_cache": recipe.length // 8})
        config.dapo.optimizer.update({"learning_rate": 1e-6, "warmup": 10, "b2": 0.95})


def _data(config: ConfigDict) -> None:
    """Set prompts and demonstrations that suit an instruct model, and the split of a whole dump."""
    prepare = config.prepare
    prepare.dump = ""  # the command line names it
    prepare.shares = shares(0.98, 0.01, 0.01)
    prepare.tokenizer_dir = config.get_oneway_ref("pretrained")
    # The system message says what the tags mean. The user message repeats the words around each mask, which the thought
    # before the answer continues (wording cloze).
    prepare.tasks.update({"titles": True, "chat": "auto", "system": "default"})
    prepare.tasks.update({"instruction": "clues", "question_instruction": "clues"})
    prepare.tasks.span_weights.update({"date": 1.0, "number": 1.0})
    config.synthesize.update({"wording": "cloze", "retry": 1.0, "association_tasks": 0})
    config.synthesize.styles.update({"title": 0.9, "clue": 0.1, "passage": 0.0, "associated": 0.0})


def _buckets(largest: int) -> tuple[int, ...]:
    """Return the buckets of micro-batches per update. A packed update needs only a fraction of the largest."""
    return tuple(sorted({max(1, largest // 4), max(1, largest // 2), largest}))
