"""The settings that all stages share by default: the tiny policy, the search tool, the limits of an episode.

A config (dapo.py, sft.py, ...) starts from `base_config()` and adds its own stage, so two files hold a whole
experiment. The tiny policy learns to copy unseen names within minutes on two CPU cores. Smeared keys, RoPE on half the
dimensions and Muon each matter for that.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference

from masksearch_jax.configs import prepare


def check_argument(page: str, arg: str, *known: str) -> None:
    """Raise ValueError for `page.py:arg` unless arg is empty or one of the variants of this config."""
    if arg and arg not in known:
        takes = f"one of {', '.join(known)}" if known else "no argument"
        raise ValueError(f"configs/{Path(page).name} takes {takes}, got {arg!r}")


def base_config() -> ConfigDict:
    """Return the settings that prepare, synthesize, SFT, DAPO and evaluation share."""
    config = ConfigDict()
    config.seed = 0  # of the data, the weights and everything that is drawn
    # Mesh axes: data (copies of the weights), fsdp (weights and optimizer are sharded), tensor (heads and MLP are
    # sharded, within a host), sequence (parts of a long row). -1 takes the devices that remain. dcn_data: slices that
    # data spans.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1, "dcn_data": 1})
    # JAX devices of a CPU host, one per core; the data axis spans them. Accelerators ignore it.
    config.cpu_devices = 2
    # Several processes, one per host, each started with this config and its own process_id.
    config.distributed = ConfigDict({
        "coordinator": "",  # host:port of process 0; '': the platform provides it and the process ids (Cloud TPU)
        "processes": 1,
        "process_id": 0,
        "timeout_s": 300,  # how long the processes may take to find each other
        "heartbeat_s": 30,  # after this long a silent process counts as gone, and all stop
        # Longest time without a training or engine step, compilation included. Then the stacks are dumped and the
        # process ends.
        "stall_s": 1800,
    })
    config.model = model()
    # A published model that SFT starts from, instead of fresh parameters: its folder, or ORG/NAME or ORG/NAME@REVISION
    # of one on the Hugging Face Hub.
    config.pretrained = ""
    config.pretrained_revision = ""  # branch, tag or commit of a model on the Hub; '': main
    config.start = ""  # folder of a trained stage, such as runs/dapo/dapo; training starts from its last checkpoint
    config.warm_start = True  # SFT before DAPO; False: DAPO starts from the model as it is given
    config.lora = lora()
    # With lora.rank: adapters only for a published model of more parameters than this, and all weights of a smaller
    # one; 0: adapters whatever the size.
    config.adapters_above = 0
    config.adapters = ""  # folder of a PEFT adapter with lora's settings that SFT starts from, instead of a fresh one
    config.search = ConfigDict({
        "hits": 1,  # passages that an observation shows; one leaves room for better queries
        "exclusion": "passage",  # none | passage | article: what the search excludes in a RAMP episode
        # URL of a server of Search-R1's /retrieve; {index} becomes train, validation or all. '': search W/data/index in
        # this process.
        "url": "",
        "timeout_s": 10.0,  # of a request and its answer
        "deadline_s": 30.0,  # of a search with its retries
        "retries": 2,  # of a request that failed
        "failures": 5,  # after this many failures in a row, no request is sent for cooldown_s
        "cooldown_s": 30.0,  # seconds without requests after too many failures
        "ready_s": 120.0,  # how long a server may take to load when the run starts
        "fallback": "local",  # what answers if the server fails: local | empty | none (the run ends)
    })
    # Where a tool is: FILE.py:NAME, http://HOST:PORT/PATH, mcp:TOOL:http://HOST:PORT/mcp or mcp:TOOL:COMMAND
    # (docs/extending.md). Time limits, retries and fallback are those of search.
    config.tools = ConfigDict({
        "search": "",  # your own search; '': that of search.*
        "visit": "",  # article: a second tool, which reads on in an article that a search found; or where yours is
        "more": (),  # further tools, NAME=WHERE; the policy calls each by tags of its name
        "snippet_words": 0,  # words of a passage that a search shows; 0: all of them
    })
    config.episode = ConfigDict({
        "turns": 6,  # model turns, the answering one included
        "turn_tokens": 40,
        "observation_tokens": 64,
        "total_tokens": 256,
        "deadline_steps": 200,  # engine steps until an episode is cancelled; 0: no deadline
    })
    config.rollout = ConfigDict({
        "slots": 64,
        "steps": 4,  # decode steps per engine step, in one device call
        "top_p": 1.0,  # RL refuses other values: log-probs are those of the whole distribution
        "top_k": 0,
        "search_steps": 1,  # engine steps from the start of a search until its results enter the episode
        "search_batch": 64,
        "search_threads": 2,
        # Tasks whose prompts leave no room for an episode (total_tokens): skip leaves them out and counts them; refuse
        # ends the run before it starts.
        "long_prompts": "skip",
        # Buckets of program shapes; each entry costs a compilation.
        "prompt_rows": 8,
        "prompt_lengths": (40, 64),  # a longer prompt takes the bucket of total_tokens, compiled with these
        "extend_rows": (4, 8, 16),
        "extend_tokens": (40, 64),
        # Buckets of the cache length. A program reads the first bucket that holds its longest slot, at most
        # total_tokens.
        "context_lengths": (),
    })
    config.prepare = prepare.get_config()
    config.prepare.seed = config.get_ref("seed")
    # Two of five spans are dates, which a search for two visible names finds at once. Names are where queries matter.
    config.prepare.tasks.span_weights.update({"date": 0.5, "number": 0.5})
    config.synthesize = synthesize()
    config.llm = prepare.llm()  # the model of the agents and of the judge
    config.alarms = alarms()
    config.tensorboard = False  # True: write events beside each metrics.jsonl
    # FROM:TO writes a trace of steps FROM to TO - 1 of each stage (iterations of DAPO) to W/<stage>/profile; '': none.
    config.profile = ""
    # Weights & Biases, off without a project (docs/guides/watching.md).
    config.wandb = ConfigDict({
        "project": "",  # the stages of a run become runs of this project; needs the extra wandb
        "name": "",  # the group that the stages of a run form; '': the name of the workdir
        "mode": "online",  # online | offline (written to W/<stage>/wandb alone; `wandb sync` sends it later)
    })
    # A task of a curriculum, of validation_tasks or of evaluate.episodes that the data holds nothing of, such as
    # passages with four masks in a small corpus: refuse (the run ends) | skip (it is left out, with a warning).
    config.empty_tasks = "refuse"
    config.validation_episodes = 256  # of each entry of validation_tasks, while training
    # Tasks that are validated while training.
    config.validation_tasks = ("ramp_1", "ramp_2")
    config.evaluate = ConfigDict({
        "split": "test",  # whose tasks are scored
        "index": "all",  # every passage, held-out ones included, as a deployed tool would search
        "examples": 2,  # worked examples before each task, for the policy few_shot
        # Episodes of each task. 0 leaves it out; -1 takes all that the split has.
        "episodes": ConfigDict({"ramp_1": 900, "ramp_2": 200, "ramp_3": 200, "ramp_4": 200, "qa": 100}),
        # Episodes of each benchmark in the data. 0 leaves it out; -1 takes all of its questions.
        "benchmarks": ConfigDict(dict.fromkeys(config.prepare.benchmarks, 100)),
        "samples": 0,  # episodes that are sampled of each task beside the greedy one, for avg@k and pass@k; 0: none
        "temperature": 1.0,  # of the sampled episodes
    })
    # A benchmark of your own, which is scored on the data as it is prepared (docs/extending.md).
    config.benchmarks = ConfigDict({
        "custom": "",  # file of questions, in any form of docs/data_formats.md
        "episodes": -1,  # of its questions, the first ones; -1: all
        "metric": "em",  # what counts, also for pass@k: em | f1 | recall | contains
        "rules": "squad",  # whose script em and f1 follow: squad | hotpotqa | two_wiki | musique | triviaqa
    })
    # Episodes of DAPO that are kept in W/dapo/trajectories for `python -m masksearch_jax.report --serve`.
    config.trajectories = ConfigDict({
        "rate": 0.1,  # share of the groups that is kept, with all their samples, trained on or not; 0: none
        "max_bytes": 256 << 20,  # bound on the file; the oldest groups go first
        # True: compute the log-probs of kept episodes once more after the update, for the ratio of each token and where
        # it is clipped. It costs a forward pass over the mini-batches that hold such an episode, and with
        # old_logprobs=sampler the compilation of its program.
        "after_update": False,
    })
    return config


def real_text(config: ConfigDict) -> None:
    """Change a config to the real text of prepare.dump: passages of 100 words, three an observation, and a short run.

    `--config.prepare.dump=FILE` gives the dump. On it the tiny policy learns the format and not the answers: half a
    million parameters from scratch and a hundred articles are too little for real names.
    """
    config.prepare.dump = ""
    config.prepare.tasks.span_weights.update({"date": 1.0, "number": 1.0})
    config.search.hits = 3
    config.episode.update({"turn_tokens": 48, "observation_tokens": 384, "total_tokens": 1280})
    config.rollout.update({"slots": 16, "prompt_lengths": (256,), "extend_rows": (4,), "extend_tokens": (384,)})
    config.synthesize.agents.update({"query_words": 12, "thought_words": 12})
    config.synthesize.examples.update({"ramp_1": 600, "ramp_2": 100, "ramp_3": 0, "ramp_4": 0})
    config.validation_episodes = 16
    config.evaluate.episodes.update({"ramp_1": 100, "ramp_2": 50, "ramp_3": 50, "ramp_4": 50})
    if "sft" in config:
        config.sft.update({"steps": 60, "rows": 4, "row_length": 1280, "eval_every": 0, "log_every": 10})
        config.sft.curriculum = ((300, (("ramp_1", 1.0),)), (None, (("ramp_1", 0.7), ("ramp_2", 0.3))))
        config.sft.optimizer.update({"warmup": 10, "total_steps": 60})
    if "dapo" in config:
        config.dapo.update({
            "iterations": 4, "prompts": 8, "group_size": 4, "groups": 4, "max_generations": 2, "minibatches": 2,
            "row_lengths": (1280,), "rows": 4, "micro_batches": (2,), "eval_every": 0, "checkpoint_every": 2,
        })  # fmt: skip


def model() -> ConfigDict:
    """Return the tiny policy of 0.5 million parameters. The tokenizer sets its vocabulary."""
    return ConfigDict({
        "layers": 3,
        "embed": 128,
        "heads": 2,  # query heads
        "kv_heads": 2,
        "head_dim": 64,  # numbers of a head
        "ff": 256,
        "mlp": "relu2",
        "rope_base": 1000.0,
        "rope_fraction": 0.5,
        "norm_eps": 1e-6,  # added to the mean square in RMSNorm
        "qkv_bias": False,
        "qk_norm": False,
        "tie_embeddings": True,  # the output projection is the embedding
        "smear_keys": True,
        "token_shift": 0,  # number of earlier tokens whose embeddings are mixed into each token's embedding
        "dtype": "float32",
        "param_dtype": "float32",
        "remat": "none",
        # Backend for training rows: xla | blocked (CPU) | splash (TPU) | cudnn (GPU) | auto; docs/guides/attention.md
        "attention": "xla",
        "scan_unroll": 3,  # layers per iteration of the layer scan; more make steps of a tiny model faster on CPU
    })


def lora() -> ConfigDict:
    """Return the settings of adapters, which SFT and DAPO train in place of the weights; see docs/guides/memory.md."""
    return ConfigDict({
        "rank": 0,  # 0: no adapters, all weights are trained
        "alpha": 32.0,  # an adapter's output is scaled by alpha / rank
        "targets": ("q", "k", "v", "o", "gate", "up", "down"),
        "dtype": "float32",
        "base_quantisation": "",  # '' | int8 | nf4: how the frozen weights are held (QLoRA; needs the extra qlora)
    })


def synthesize(strong: bool = False) -> ConfigDict:
    """Return the settings of the teacher.

    By default it is weak on purpose. Its first queries are a bare name or the passage's own words, which find the
    answer about as rarely. One query in twenty uses the words of other articles, so that RL meets such queries. With
    many more of them, rejection would make them what converged SFT does anyway. A strong teacher always asks with such
    words (docs/results/quickstart.md, "A weak and a strong teacher").
    """
    weak = {"title": 0.5, "passage": 0.45, "associated": 0.05, "clue": 0.0}
    styles = {"title": 0.0, "passage": 0.0, "associated": 1.0, "clue": 0.0} if strong else weak
    return ConfigDict({
        # rules (they know the answers) | agents (a language model, `llm`; docs/guides/agents.md) | official
        # (records in a file)
        "teacher": "rules",
        # Probability of each style of a first query (teachers/query_writers.py).
        "styles": ConfigDict(styles),
        "retry": 0.5,  # share of misses after which the teacher searches again, in another query style
        "attempts": 2,  # most searches for one mask
        # A thought repeats this many words before each mask; the last thought repeats them with the answer. 0: thoughts
        # are a plan, and the answer comes without a thought. There is no demonstration if fewer than evidence_match of
        # these words lead to the answer in what was found.
        "evidence": 0,
        "evidence_match": 0,  # see evidence
        # words: the thoughts above, for a policy that can only copy. For a language model: sentences | brief, which say
        # what is missing and then quote what was read | cloze, which repeats the words before the mask and continues
        # them. These three do not use `evidence`; their turns are made to fit episode.turn_tokens.
        "wording": "words",
        "speech": ConfigDict({
            "clue_words": 4,  # words that a clue shows on each side of its mask
            "quote_words": 20,  # words of a quotation
            # Words that a quotation must share with the sentence of the mask; otherwise there is no demonstration.
            "shared_words": 2,
        }),
        # Most demonstrations of each kind of task.
        "examples": ConfigDict({"ramp_1": 6000, "ramp_2": 2400, "ramp_3": 300, "ramp_4": 50, "qa": 0}),
        "association_tasks": 2000,  # training tasks from which the teacher learns the words of other articles
        "probe_tasks": 500,  # tasks by which each query style is measured; 0: not measured
        "agents": ConfigDict({
            "rewrites": 3,  # most queries that the rewriter makes of one query
            "passages": 5,  # passages of a search that the observer reads
            "query_words": 8,  # most words of a query
            "thought_words": 8,  # words of an analysis or a thought; a turn has to fit episode.turn_tokens
            "reply_attempts": 3,  # attempts until a reply has the form that was asked for
            "judge": "rules",  # rules (token recall) | llm | both
            "judge_recall": 1.0,  # least token recall of each answer, for the rules
            "workers": 16,  # tasks at a time
            "tasks": 0,  # most tasks tried for each kind of example; 0: as many as it takes
        }),
        # file: chatml trajectories, one per line; accuracy: least response_acc of an accepted one.
        "official": ConfigDict({"file": "", "accuracy": 1.0}),
    })


def sft() -> ConfigDict:
    """Return the settings of SFT: Muon for the stacked matrices, Adam for the rest, about one epoch of demonstrations.

    Configs call `published_defaults` on it.
    """
    return ConfigDict({
        "steps": 1400,  # optimizer steps
        "rows": 10,  # packed rows of an optimizer step
        "row_length": 256,  # tokens of a row
        "micro_batches": 1,  # parts of a step that are computed one after the other; they divide rows
        # Phases in order: (examples, ((masks, weight), ...)). None examples: until the end. One mask first, then a mix.
        "curriculum": (
            (4000, (("ramp_1", 1.0),)),
            (None, (("ramp_1", 0.55), ("ramp_2", 0.33), ("ramp_3", 0.09), ("ramp_4", 0.03))),
        ),
        "share": 1.0,  # share of the demonstrations for each number of masks that is used, taken from the start
        "augment": True,  # permute the tokens of names, so that each step shows unseen names
        "seed_offset": 0,  # added to the seed for the order of the data
        "optimizer": optimizer(
            "muon", 0.02, adam_learning_rate=3e-3, schedule="cosine", warmup=50, total_steps=1400, floor=0.1
        ),
        "eval_every": 700,  # steps between two validations; 0: none
        "log_every": 50,  # steps between two rows of metrics.jsonl
        "checkpoint_every": 100,  # steps between two checkpoints
        "max_without_update": 20,  # the run stops after this many steps in a row without finite gradients; 0: no limit
        "rollback": rollback(),
    })


def rollback() -> ConfigDict:
    """Return the settings of a return to the last good checkpoint, with the data moved past the bad steps.

    It is off by default. See docs/guides/alarms.md.
    """
    return ConfigDict({
        # Return after this many steps, or iterations, in a row without a finite gradient, and when an alarm with the
        # action rollback starts. 0: off.
        "after": 0,
        "most": 3,  # this many times in a stage; after that the run stops
        "learning_rate_scale": 1.0,  # the learning rates are multiplied by this at each return
    })


def alarms() -> ConfigDict:
    """Return the alarms of training (docs/guides/alarms.md), one section for each.

    threshold: the number past which it starts. window: the rows of metrics.jsonl whose mean (for throughput the median)
    is compared. action: off | log | stop (save a checkpoint and end with exit status 3) | rollback.
    """

    def alarm(threshold: float, window: int) -> ConfigDict:
        return ConfigDict({"threshold": threshold, "window": window, "action": "log"})

    config = ConfigDict()
    config.entropy = alarm(0.01, 5)  # lowest entropy of the policy, in nats per token
    config.length = alarm(2.0, 5)  # highest length of an episode, in lengths of the first rows
    config.truncation = alarm(0.5, 5)  # highest share of episodes that a limit of tokens cuts
    config.reward_spread = alarm(0.05, 5)  # lowest share of groups whose rewards differ
    config.format = alarm(0.5, 5)  # lowest format reward
    config.sampler_difference = alarm(0.01, 1)  # highest mean difference of sampler's and trainer's probabilities
    config.sampler_correlation = alarm(0.99, 1)  # lowest correlation of these probabilities
    config.dropped_groups = alarm(0.5, 5)  # highest share of groups with a signal that are not trained on
    config.search_errors = alarm(0.05, 3)  # highest share of searches that fail
    config.skipped = alarm(0.1, 5)  # highest share of optimizer steps without an update
    config.loss = alarm(3.0, 3)  # highest loss of SFT, in medians of the rows before
    config.throughput = alarm(0.5, 5)  # lowest speed, in medians of the rows before
    config.disk = alarm(2.0, 1)  # least free space of the workdir's file system, in GB
    return config


class ByModel(FieldReference):
    """A setting with two defaults: one for a policy from scratch, one for when `pretrained` names a published model.

    A value that a config or the command line sets replaces both. Where the model itself decides the second
    (workflows/pretrained_model.py), `propose` replaces it.
    """

    def __init__(self, scratch: Any, published: Any, pretrained: FieldReference):
        self._published, self._pretrained = published, pretrained
        super().__init__(scratch)
        self._given = False

    def set(self, value: Any, type_safe: bool = True) -> None:
        self._given = True
        super().set(value, type_safe)

    def get(self) -> Any:
        return super().get() if self._given or not self._pretrained.get() else self._published

    def propose(self, published: Any) -> None:
        """Replace the default for a published model."""
        self._published = published

    def __getstate__(self) -> dict[str, Any]:  # copies and pickles
        return {"value": super().__getstate__(), "own": (self._published, self._pretrained, self._given)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state["value"])
        self._published, self._pretrained, self._given = state["own"]


def published_defaults(config: ConfigDict, stage: str, learning_rate: float) -> None:
    """Make AdamW at `learning_rate` the default of a stage's optimizer for a published model.

    Muon at 0.02, the default from scratch, would ruin a published model. Configs pass the rates with which models of
    0.5 to 8 billion parameters are usually fine-tuned. A model of 135 million parameters tolerates higher ones.
    """
    settings, pretrained = config[stage].optimizer, config.get_ref("pretrained")
    for name, value in {"kind": "adamw", "learning_rate": learning_rate, "adam_learning_rate": learning_rate}.items():
        settings[name] = ByModel(settings[name], value, pretrained)


def follow_model(config: ConfigDict, *names: str) -> None:
    """Make the values of these settings defaults that the published model may change."""
    for name in names:
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = ByModel(section[last], section[last], config.get_ref("pretrained"))


def optimizer(kind: str, learning_rate: float, **other) -> ConfigDict:
    """Return optimizer settings. adam_learning_rate is for what Muon leaves to Adam: embeddings, norms, scalars."""
    settings = ConfigDict({
        "kind": kind,
        "learning_rate": learning_rate,
        "adam_learning_rate": learning_rate,
        "schedule": "constant",
        "warmup": 0,
        "total_steps": 0,
        "floor": 0.1,
        "clip": 1.0,
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-8,
        "mu_dtype": "float32",
        "weight_decay": 0.0,
    })
    settings.update(other)
    return settings
