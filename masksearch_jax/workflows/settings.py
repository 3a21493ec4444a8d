"""Validate all settings of a config before any work: each alone, and those that depend on each other.

Enters: the config of a command. Leaves: nothing, or a ValueError that names each setting that cannot work, its value
and what is allowed.
Left out: files and folders that settings name. Their readers check them (workflows/training.py, prep/preparation.py).
"""

import math
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.retrieval.index import index_settings
from masksearch_jax.rollout.slot_sharding import SlotSharding
from masksearch_jax.runtime.types import Setting
from masksearch_jax.text import clues, instructions, tags
from masksearch_jax.trainers import alarms, dapo, step_trace, updates
from masksearch_jax.trainers import optimizer as optimizer_lib
from masksearch_jax.trainers.row_checks import check_rows
from masksearch_jax.workflows import setting_ranges
from masksearch_jax.workflows.problems import Problems
from masksearch_jax.workflows.setting_rules import any_like

OF_SFT = frozenset({"one_search", "sft", "sft_more"})  # policies that need SFT


def validate_settings(cfg: ConfigDict, kind: str = "train") -> None:
    """Check all settings of a config. Raises ValueError that names every setting that cannot work.

    kind: 'train' for configs that start from configs/common.py, 'prepare', 'serve_search', or 'serve'.
    """
    ranges, problems = setting_ranges.RANGES[kind], Problems()
    for name, value in leaves(cfg):
        if name.startswith(setting_ranges.READ_AS_A_WHOLE):
            continue
        problems.check((setting_ranges.rule_of(ranges, name) or any_like(value)).check, name, value)
    if kind == "prepare":
        problems.check(_validate_prepare, cfg, "")
    if kind == "train":
        _validate_training(cfg, problems)
    problems.raise_found()


def _validate_training(cfg: ConfigDict, problems: Problems) -> None:
    """Check what depends on several settings of a config that starts from configs/common.py."""
    problems.check(_validate_prepare, cfg.prepare, "prepare.")
    problems.check(_validate_synthesize, cfg)
    problems.check(_validate_augmentation, cfg)
    problems.check(_validate_processes, cfg)
    problems.check(_validate_evaluation, cfg)
    for stage in ("sft", "dapo"):
        if stage in cfg:
            problems.check(optimizer_lib.from_config, cfg[stage].optimizer)
            problems.check(_validate_rollback, cfg, stage)
    if "sft" in cfg:
        problems.check(_validate_sft, cfg)
    if "dapo" in cfg:
        problems.check(_validate_dapo, cfg.dapo, cfg.episode.total_tokens)
    problems.check(_validate_profile, cfg)
    problems.check(_validate_policies, cfg)


def _validate_processes(cfg: ConfigDict) -> None:
    if cfg.distributed.process_id >= cfg.distributed.processes:
        raise ValueError(
            f"distributed.process_id={cfg.distributed.process_id} with distributed.processes="
            f"{cfg.distributed.processes}: ids are 0 to {cfg.distributed.processes - 1}"
        )


def _validate_evaluation(cfg: ConfigDict) -> None:
    for name in cfg.evaluate.episodes:
        if name not in setting_ranges.TASKS:
            raise ValueError(f"evaluate.episodes.{name}: the tasks are {', '.join(setting_ranges.TASKS)}")
    if cfg.get("workflow") in ("quickstart", "language_model") and not cfg.evaluate.episodes["ramp_1"]:
        raise ValueError("evaluate.episodes.ramp_1=0: the report's first table is that of one mask; ask for 1 or more")


def _validate_policies(cfg: ConfigDict) -> None:
    policies = cfg.get("policies", ())
    if "sft_more" in policies and not {"sft", "dapo"} <= set(policies):
        raise ValueError(f"policies={tuple(policies)}: 'sft_more' trains for as long as 'dapo' took; name that as well")


def trains_sft(cfg: ConfigDict) -> bool:
    """Return True if the run trains SFT: as its stage, as the warm start of DAPO, or for a policy of a workflow."""
    if cfg.get("stage") != "dapo":
        return True
    return not cfg.start and (cfg.warm_start or ("workflow" in cfg and not OF_SFT.isdisjoint(cfg.get("policies", ()))))


def validate_shapes(cfg: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError that names a setting which has to divide over the devices of the mesh and does not."""
    SlotSharding(mesh, cfg.rollout.slots)
    if "stage" in cfg and trains_sft(cfg):
        check_rows("sft", cfg.sft.rows, cfg.sft.micro_batches, mesh)
    if cfg.get("stage") == "dapo":
        updates.batch_shape(cfg.dapo, cfg.episode.total_tokens, mesh)


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield the dotted name and the value of every setting."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _validate_prepare(cfg: ConfigDict, prefix: str) -> None:
    shares = cfg.shares.to_dict()
    if not math.isclose(sum(shares.values()), 1):
        raise ValueError(f"{prefix}shares={shares}: they have to add up to 1")
    if cfg.passages.minimum > cfg.passages.words:
        raise ValueError(f"{prefix}passages.minimum={cfg.passages.minimum} exceeds passages.words={cfg.passages.words}")
    if not any(cfg.tasks.span_weights.values()):
        raise ValueError(f"{prefix}tasks.span_weights={cfg.tasks.span_weights.to_dict()}: one has to be above 0")
    for name, text, why in (
        ("system", instructions.text_of("system", cfg.tasks.system), "a system message has no masks"),
        ("question_instruction", instructions.text_of("question_instruction", cfg.tasks.question_instruction),
         "clues are of a mask, such as 'The answer is [mask].', that stands before them"),
    ):  # fmt: skip
        before, placeholder, _ = text.partition(clues.PLACEHOLDER)
        if placeholder and (name == "system" or tags.MASK not in before):
            raise ValueError(f"{prefix}tasks.{name}={text!r}: {why}; take {clues.PLACEHOLDER} out")
    index_settings.from_config(cfg.retrieval.to_dict())


def _validate_synthesize(cfg: ConfigDict) -> None:
    wanted = cfg.synthesize
    for name in wanted.examples:
        if name not in setting_ranges.TASKS:
            raise ValueError(f"synthesize.examples.{name}: the tasks are {', '.join(setting_ranges.TASKS)}")
    styles = wanted.styles.to_dict()
    if wanted.teacher == "rules" and not math.isclose(sum(styles.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"synthesize.styles={styles}: probabilities that add up to 1 are needed")
    if wanted.evidence_match > wanted.evidence:
        raise ValueError(
            f"synthesize.evidence_match={wanted.evidence_match}: no more words can match than the "
            f"synthesize.evidence={wanted.evidence} that are quoted"
        )
    if wanted.wording != "words" and wanted.evidence:
        raise ValueError(
            f"synthesize.wording={wanted.wording!r} quotes sentences, and synthesize.evidence={wanted.evidence} is for "
            "the wording 'words'; set synthesize.evidence=0"
        )
    if wanted.teacher == "agents" and cfg.episode.turns < 2:
        raise ValueError(f"episode.turns={cfg.episode.turns}: the agents search at least once; 2 are needed")


def _validate_augmentation(cfg: ConfigDict) -> None:
    """Clues repeat words of a passage behind a quotation mark, where a name has other tokens than in the passage."""
    told = instructions.text_of("instruction", cfg.prepare.tasks.instruction)
    stages = [stage for stage in ("sft", "dapo") if stage in cfg and cfg[stage].augment]
    if clues.PLACEHOLDER in told and stages and not cfg.prepare.tokenizer_dir:
        raise ValueError(
            f"{stages[0]}.augment=True renames a passage's names and not those of its clues (prepare.tasks.instruction="
            f"{cfg.prepare.tasks.instruction!r}); set {stages[0]}.augment=False, or take another instruction"
        )


def _validate_sft(cfg: ConfigDict) -> None:
    settings = cfg.sft
    if settings.rows % settings.micro_batches:
        raise ValueError(
            f"sft.rows={settings.rows} does not divide by sft.micro_batches={settings.micro_batches}; take a multiple"
        )
    if cfg.get("stage") == "dapo" and ("stages" in cfg or not trains_sft(cfg)):
        return  # no SFT with the curriculum and demonstrations of this config
    curriculum = Curriculum([(examples, dict(weights)) for examples, weights in settings.curriculum])
    lacking = [name for name in curriculum.tasks if not cfg.synthesize.examples.get(name, 0)]
    if lacking:
        raise ValueError(
            f"sft.curriculum={settings.curriculum} draws from {', '.join(lacking)}, of which synthesize.examples asks "
            f"for no demonstration; set synthesize.examples.{lacking[0]} above 0, or take the task out"
        )


def _validate_profile(cfg: ConfigDict) -> None:
    """The steps to trace have to be steps of the run: of its stage, or of any stage of a workflow."""
    steps = step_trace.parse(cfg.profile)
    ends = {
        f"{stage}.{unit}": cfg[stage][unit]
        for stage, unit in (("sft", "steps"), ("dapo", "iterations"))
        if stage in cfg and cfg.get("stage", stage) == stage
    }
    if steps and ends and steps.start > max(ends.values()):
        told = ", ".join(f"{name}={last}" for name, last in ends.items())
        raise ValueError(f"profile={cfg.profile!r}: the run ends before step {steps.start} ({told})")


def _validate_rollback(cfg: ConfigDict, stage: str) -> None:
    after, limit = cfg[stage].rollback.after, cfg[stage].max_without_update
    if after and limit and after >= limit:
        raise ValueError(
            f"{stage}.rollback.after={after} with {stage}.max_without_update={limit}: the run would stop before it "
            "returns to a good checkpoint; lower the first or raise the second"
        )
    trained = "stage" not in cfg or cfg.stage == stage or (stage == "sft" and trains_sft(cfg))
    asking = [
        name for name, alarm in alarms.ALARMS.items() if cfg.alarms[name].action == "rollback" and stage in alarm.kinds
    ]
    if asking and trained and not after:
        raise ValueError(
            f"alarms.{asking[0]}.action='rollback' with {stage}.rollback.after=0, which turns rollback off: set it to "
            "1 or more, or choose another action"
        )


def _validate_dapo(settings: ConfigDict, total_tokens: int) -> None:
    most = settings.prompts * settings.max_generations
    if settings.groups > most:
        raise ValueError(
            f"dapo.groups={settings.groups}: a rollout batch has at most {most} (dapo.prompts={settings.prompts} x "
            f"dapo.max_generations={settings.max_generations}); raise either, or train on fewer"
        )
    if settings.minibatches > settings.groups * settings.group_size:
        raise ValueError(
            f"dapo.minibatches={settings.minibatches}: at most one for each of the "
            f"{settings.groups * settings.group_size} trajectories (dapo.groups x dapo.group_size)"
        )
    dapo.validate_dapo(settings)
    updates.batch_shape(settings, total_tokens)
