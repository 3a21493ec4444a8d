"""Stage I by RL: DAPO on RAMP tasks with the search tool in the loop, from an SFT warm start.

Command:  python -m masksearch_jax.train --config=configs/dapo.py --workdir=runs/dapo
          python -m masksearch_jax.train --config=configs/dapo.py:dump --config.prepare.dump=FILE --workdir=W
          python -m masksearch_jax.compile --config=configs/dapo.py:qwen2.5-7b      a recipe of configs/recipes.py
Hardware: two CPU cores; a recipe needs the TPU slice that it names.
The run first makes what W lacks: toy encyclopedia, tasks, index, demonstrations, SFT warm start.
Expect:   see docs/results/quickstart.md.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common, recipes

VARIANTS = ("dump", *recipes.RECIPES)


def get_config(arg: str = ""):
    common.check_argument(__file__, arg, *VARIANTS)
    config = common.base_config()
    config.stage = "dapo"  # what train runs: sft | dapo
    config.sft = common.sft()
    config.dapo = dapo()
    common.published_defaults(config, "sft", 1e-5)
    common.published_defaults(config, "dapo", 1e-6)
    if arg == "dump":
        common.real_text(config)
    elif arg:
        recipes.apply(config, arg)
    return config


def dapo() -> ConfigDict:
    return ConfigDict({
        "iterations": 50,  # rollout batches, i.e. policy versions
        # --- rollout batch and dynamic sampling ---
        "prompts": 32,  # groups generated at a time
        "group_size": 8,  # samples of each prompt; the advantage is relative to its group
        "groups": 16,  # an update trains on this many groups that carry a signal
        "dynamic_sampling": True,  # drop groups whose samples all score alike, and generate more
        "max_generations": 3,  # generation budget of one rollout batch
        "carry_over": False,  # our extension: surplus groups are kept for the next rollout batch
        "temperature": 1.0,
        # Phases in order: (prompts, ((task, weight), ...)). None prompts: until the end. Two-mask tasks are there from
        # the start: with one mask alone the policy unlearns longer answers within ten iterations, and a policy that
        # never writes one gets no signal to relearn them.
        "curriculum": (
            (1000, (("ramp_1", 0.75), ("ramp_2", 0.25))),
            (None, (("ramp_1", 0.7), ("ramp_2", 0.2), ("ramp_3", 0.07), ("ramp_4", 0.03))),
        ),
        # Draw only tasks that a search for the title or for a clue answers (workflows/answerable.py); the paper draws
        # all. On the others all rewards of a group are mostly equal, and the group is dropped after it was paid for.
        "answerable_only": False,
        "augment": True,  # permute the tokens of names, drawn anew for each group
        # --- reward ---
        "reward": ConfigDict({
            "answer": "recall_penalised",  # recall | recall_penalised | f1 | em | judge (asks `llm`)
            "kappa": 1.0,
            "format_weight": 0.1,
            "answer_weight": 1.0,
            "overlong_limit": 96,  # model tokens
            "overlong_cache": 32,
            "overlong_factor": 0.5,
            # FILE.py:NAME, a function (task, trajectory, spans) -> parts, which are added (docs/extending.md).
            "file": "",
            "weights": (),  # of these parts, ('brevity=0.5', ..); 1 for one that is not named
        }),
        # The model of `llm` judges answers. An episode whose verdict does not arrive in time is left out of the update.
        "judge": ConfigDict({"timeout_s": 20.0, "retries": 1, "attempts": 2}),
        # --- loss ---
        "advantage": "group",  # group | mean (Dr.GRPO)
        "clip_low": 0.2,  # the ratio is clipped at 1 - clip_low from below
        "clip_high": 0.28,  # and at 1 + clip_high from above (clip-higher)
        "dual_clip": 10.0,  # bound on the loss of tokens with a negative advantage, in advantages; 0: off
        "aggregation": "token-mean",  # of token losses; names as in verl
        # Old log-probs, the denominator of the ratio: trainer (recomputed, by one more forward pass) | sampler (as the
        # sampler reported them; for a sampler that computes in the trainer's dtype).
        "old_logprobs": "trainer",
        "tis_cap": 0.0,  # truncated importance sampling towards the sampler's log-probs; 0 is off
        "staleness": 0,  # 1: the next batch is sampled while this one is trained on; needs tis_cap (2.0)
        # --- update ---
        "minibatches": 4,  # optimizer steps per rollout batch
        # Lay out the samples of a row as a tree, so that what several begin with is computed once: a group's prompt, a
        # turn that they all wrote, what it found. The loss is that of separate samples, up to rounding.
        "share_prefixes": False,
        # Buckets of packed update batches: the smallest that holds a mini-batch is used. Each is compiled once.
        "row_lengths": (256,),
        "rows": 4,  # packed rows of a micro-batch
        "micro_batches": (3, 5, 8),  # buckets of micro-batches per optimizer step
        "optimizer": common.optimizer("adamw", 5e-4, b2=0.98, warmup=24),
        # --- intervals, in iterations ---
        "eval_every": 25,  # 0: no validation
        "show_every": 10,  # how often one sampled episode is printed as text; 0: never
        "checkpoint_every": 10,  # how often a checkpoint is saved
        # The run stops after this many iterations in a row without an update (no group with a signal, or no finite
        # gradient); 0: no limit.
        "max_without_update": 10,
        "rollback": common.rollback(),
    })
