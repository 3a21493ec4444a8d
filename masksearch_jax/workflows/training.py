"""Train one stage, after making what the stage needs and W does not have (masksearch_jax.train).

The order is: data (in its own process, since it needs TensorFlow, which this process must not import), demonstrations,
SFT warm start, the stage itself. `--config.start=FOLDER/STAGE` starts from the last checkpoint there, and does not
change that folder. SFT continues from the checkpoint; DAPO takes it as its warm start, without SFT before it. This is
how stage II follows stage I. A run may be killed at any moment: started again with the same command, it resumes and
ends with the same parameters, bit for bit.
"""

import contextlib
import os
import runpy
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from masksearch_jax.agents.reward_judge import AnswerJudge
from masksearch_jax.model import config as model_config
from masksearch_jax.model import lora
from masksearch_jax.model.config import lora_from_config
from masksearch_jax.retrieval.service import remote_settings
from masksearch_jax.runtime import child_process, distributed, progress, settings_history, trackers, workdir_lock
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.config_files import find_config
from masksearch_jax.runtime.mesh import make_mesh
from masksearch_jax.runtime.types import JsonObject, Params
from masksearch_jax.trainers import dapo, sft
from masksearch_jax.trainers.stage import changed_settings
from masksearch_jax.workflows import (
    answerable,
    command_summary,
    empty_tasks,
    llm_connection,
    own_code,
    prepared_data,
    pretrained_model,
    synthesis_stage,
    tools,
)
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.problems import Problems
from masksearch_jax.workflows.settings import trains_sft, validate_settings, validate_shapes

_PREPARE_PAGE = "configs/prepare.py"


def run(cfg: ConfigDict, workdir: Path) -> Params:
    """Run `cfg.stage` ('sft' or 'dapo') in W with everything that it needs, and return the final parameters."""
    if cfg.stage not in ("sft", "dapo"):
        raise ValueError(f"stage={cfg.stage!r} is none of ('sft', 'dapo')")
    validate_training(cfg, workdir)
    context = RunContext(cfg, workdir)
    if cfg.model.attention != "xla":  # raises here, before data is made; xla runs on any device
        _print_message(f"attention of training rows: {context.architecture.attention}")
    ensure_data(cfg, workdir)
    check_stages(context)
    if cfg.stage == "dapo" and (cfg.start or not cfg.warm_start):
        return train_dapo(context)
    ensure_demonstrations(context)
    params = train_sft(context)
    return params if cfg.stage == "sft" else train_dapo(context, params)


def validate_training(cfg: ConfigDict, workdir: Path | None = None) -> None:
    """Settle what the published model decides, and check settings that would waste a run, before anything is made.

    workdir: whose data would be made from what the settings name, unless it is there; None also leaves out how the
    settings divide over the devices. Raises ValueError that names
    every setting that cannot work. If there is only one, its own error is raised, such as FileNotFoundError for a
    published folder that does not exist.
    """
    problems = Problems()
    problems.check(validate_settings, cfg)
    problems.check(pretrained_model.settle, cfg, workdir)
    if not cfg.pretrained:
        problems.check(_validate_model, cfg)
    problems.check(remote_settings.settings_of, cfg.search)
    problems.check(trackers.check_installed, cfg)
    problems.check(tools.validate_tools, cfg)
    problems.check(_validate_start, cfg)
    if workdir is not None:
        problems.check(_validate_devices, cfg)
        if not (workdir / "data" / "manifest.json").exists():
            problems.check(prepared_data.check_sources, cfg)
    if trains_sft(cfg):  # on demonstrations
        problems.check(synthesis_stage.validate_synthesis, cfg)
    if cfg.stage != "sft":
        _validate_dapo(cfg, problems)
    problems.raise_found()


def _validate_devices(cfg: ConfigDict) -> None:
    validate_shapes(cfg, make_mesh(**cfg.mesh.to_dict()))


def _validate_model(cfg: ConfigDict) -> None:
    """Check the model of a config that names no published one."""
    adapters = lora_from_config(cfg.lora)
    model_config.from_config(cfg.model, **({} if "vocab_size" in cfg.model else {"vocab_size": 1}), lora=adapters)
    if "prepare" in cfg and cfg.prepare.tasks.chat and not cfg.prepare.tokenizer_dir:
        raise ValueError(
            f"pretrained='': prepare.tasks.chat={cfg.prepare.tasks.chat!r} is for a published model, and this run "
            "names none: it would train fresh parameters; give its folder, --config.pretrained=HF_FOLDER, or its name "
            "on the Hugging Face Hub, --config.pretrained=ORG/NAME"
        )


def _validate_start(cfg: ConfigDict) -> None:
    if cfg.start and not (Path(cfg.start) / "checkpoints").is_dir():
        raise ValueError(
            f"start={cfg.start} holds no checkpoints; name the folder of a trained stage, such as runs/dapo/dapo"
        )
    adapters = lora_from_config(cfg.lora)
    if adapters and adapters.base_quantisation:
        lora.qwix()


def _validate_dapo(cfg: ConfigDict, problems: Problems) -> None:
    problems.check(own_code.load_reward, cfg.dapo.reward)
    problems.check(_validate_sampling, cfg)
    if cfg.dapo.reward.answer == "judge":
        problems.check(llm_connection.validate_llm, cfg.llm, "dapo.reward.answer='judge'")
        problems.check(_validate_judge, cfg)


def _validate_sampling(cfg: ConfigDict) -> None:
    if cfg.rollout.top_p != 1.0 or cfg.rollout.top_k != 0:
        raise ValueError(
            f"rollout.top_p={cfg.rollout.top_p}, top_k={cfg.rollout.top_k}: RL samples from the whole distribution, or "
            "the log-probs of sampler and trainer disagree by construction; set top_p=1.0 and top_k=0"
        )
    if cfg.dapo.staleness and not cfg.dapo.tis_cap:
        raise ValueError("dapo.staleness=1 needs importance weights for the lag: set dapo.tis_cap=2.0")
    if cfg.dapo.staleness and cfg.dapo.carry_over:
        raise ValueError("dapo.staleness=1 with carry_over: surplus would be two versions old; switch one off")


def _validate_judge(cfg: ConfigDict) -> None:
    if cfg.distributed.processes > 1 and not cfg.llm.url:
        raise ValueError("dapo.reward.answer='judge' on several processes needs llm.url: process 0 alone asks")


def ensure_data(cfg: ConfigDict, workdir: Path) -> None:
    """Prepare W/data in a separate process unless it is there.

    Raises ValueError for data that was made with other settings than the run states, and, if data is missing in a run
    of several processes, a ValueError with the command to run instead. Leaves out of the settings what the data holds
    nothing of, if they ask for that (workflows/empty_tasks.py).
    """
    _make_data(cfg, workdir)
    empty_tasks.leave_out(cfg, workdir)


def _make_data(cfg: ConfigDict, workdir: Path) -> None:
    command = prepare_command(cfg.prepare, workdir)
    if (workdir / "data" / "manifest.json").exists():
        prepared_data.check_prepared(cfg, workdir, shlex.join(command), warn=distributed.primary())
        return
    if cfg.distributed.processes > 1:
        raise ValueError(
            f"{workdir / 'data'} is not prepared, and {cfg.distributed.processes} processes would all prepare it. "
            f"Run this once, where every process sees {workdir}:\n  {' '.join(command)}"
        )
    _print_message(f"{workdir / 'data'} is missing: preparing it\n  {' '.join(command)}")
    # Preparation always runs on the CPU and never takes the accelerator of the trainer.
    child_process.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def prepare_command(settings: ConfigDict, workdir: Path) -> list[str]:
    """Return the command that prepares with `settings`: configs/prepare.py, and an override for each other value."""
    page = find_config(_PREPARE_PAGE)
    defaults = _leaves(runpy.run_path(page)["get_config"]())
    changed = {name: value for name, value in _leaves(settings).items() if defaults.get(name) != value}
    return [
        sys.executable, "-m", "masksearch_jax.prepare", f"--config={page}", f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]  # fmt: skip


def _leaves(config: ConfigDict, prefix: str = "") -> JsonObject:
    found: JsonObject = {}
    for name, value in config.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return found


def ensure_demonstrations(context: RunContext) -> None:
    """Make W/demonstrations unless they are there. Raises ValueError if they were made with other settings."""
    _make_demonstrations(context)
    empty_tasks.leave_out_untaught(context.cfg, context.workdir)


def _make_demonstrations(context: RunContext) -> None:
    target = context.workdir / "demonstrations" / "manifest.json"
    if target.exists():
        synthesis_stage.check_made(context.cfg, context.workdir)
        return
    if context.cfg.distributed.processes > 1:
        raise ValueError(
            f"{target.parent} is missing, and {context.cfg.distributed.processes} processes would all synthesise "
            "it. Run `python -m masksearch_jax.synthesize` once, with this --config and its overrides but "
            f"distributed, and --workdir={context.workdir}, where every process sees it"
        )
    _print_message(f"{target.parent} is missing: synthesising it")
    synthesis_stage.run(context.cfg, context.workdir, context.searcher("train"))


def train_sft(context: RunContext, name: str = "sft", params: Params | None = None) -> Params:
    """Train SFT in W/<name> unless it is finished, and return its final parameters.

    Raises ValueError if a setting that an existing checkpoint fixes (runtime/settings_history.py) has changed.
    """
    changed = changed_settings(context.cfg, context.workdir, name, "sft", context.policy)
    if finished(context, name, context.cfg[name].steps):
        _say_finished(context.workdir / name, changed)
        return context.parameters(name)
    evaluate = context.validation(context.cfg.validation_episodes) if context.cfg[name].eval_every else None
    if params is None:
        params = context.initial()
    print_optimizer(context.cfg, name)
    with jax.set_mesh(context.mesh):
        return sft.run(context.cfg, context.workdir, context.policy, name=name, params=params, evaluate=evaluate)


def train_dapo(context: RunContext, params: Params | None = None) -> Params:
    """Train DAPO in W/dapo unless it is finished, and return its final parameters.

    params: where to start, by default `RunContext.initial`. Raises ValueError if a setting that an existing checkpoint
    fixes (runtime/settings_history.py) has changed.
    """
    changed = changed_settings(context.cfg, context.workdir, "dapo", "dapo", context.policy)
    if finished(context, "dapo", context.cfg.dapo.iterations):
        _say_finished(context.workdir / "dapo", changed)
        return context.parameters("dapo")
    if params is None:
        params = context.initial()
    evaluate = context.validation(context.cfg.validation_episodes) if context.cfg.dapo.eval_every else None
    engine = context.engine("train", temperature=context.cfg.dapo.temperature)
    judge = answer_judge(context, context.cfg.dapo.judge) if context.cfg.dapo.reward.answer == "judge" else None
    chosen = answerable.task_ids(context) if context.cfg.dapo.answerable_only else None
    print_optimizer(context.cfg, "dapo")
    with jax.set_mesh(context.mesh):
        return dapo.run(
            context.cfg,
            context.workdir,
            context.policy,
            engine,
            params=params,
            evaluate=evaluate,
            judge=judge,
            task_ids=chosen,
            own_reward=own_code.load_reward(context.cfg.dapo.reward),
        )


def answer_judge(context: RunContext, settings: ConfigDict) -> Callable:
    """Return the judge that asks the model of `cfg.llm`, with its replies cached in W/llm.sqlite.

    Only process 0 asks. On the others the judge returns no verdicts.
    """
    if not distributed.primary():
        return lambda asked: []
    client = llm_connection.connect(context.cfg.llm, context.workdir / "llm.sqlite")
    return AnswerJudge(client, llm_connection.sampling(context.cfg.llm), **settings.to_dict())


def finished(context: RunContext, stage: str, steps: int) -> bool:
    """Return True if the newest checkpoint of the stage is its last step and its files are undamaged."""
    folder = context.workdir / stage / "checkpoints"
    if not distributed.decide(folder.is_dir()):
        return False
    checkpoints = Checkpointer(folder, read_only=True)
    latest = checkpoints.newest_whole()
    checkpoints.close()
    return latest is not None and latest >= steps


def _say_finished(folder: Path, changed: settings_history.Differences) -> None:
    if changed and distributed.primary():
        _print_message(
            f"{folder} is finished and is used as it is; these settings have changed since, without effect on it: "
            f"{settings_history.listed(changed)}. To train it with them, take another --workdir"
        )


def check_stages(context: RunContext) -> None:
    """Raise ValueError if a setting that an existing checkpoint of this run fixes has changed.

    This is checked before the work that precedes the stages.
    """
    warm = context.cfg.stage == "dapo" and context.cfg.warm_start and not context.cfg.start
    kinds = ["sft", "dapo"] if warm else [context.cfg.stage]
    for kind in kinds:
        if (context.workdir / kind).is_dir():
            changed_settings(context.cfg, context.workdir, kind, kind, context.policy)


def print_optimizer(cfg: ConfigDict, stage: str) -> None:
    """Print which optimizer trains a published model: its defaults differ from those for training from scratch."""
    if cfg.pretrained:
        chosen = cfg[stage].optimizer
        trained = f"adapters of rank {cfg.lora.rank}" if cfg.lora.rank else "all weights"
        _print_message(
            f"{stage}: {chosen.kind} at a learning rate of {chosen.learning_rate:g}, {trained} of {cfg.pretrained}"
        )


def _print_message(text: str) -> None:
    progress.print_message("train", text, distributed.primary())


def main(cfg: ConfigDict, workdir: Path) -> None:
    with distributed.processes(cfg.distributed):
        settings = {name: value for name, value in _leaves(cfg).items() if name != "distributed.process_id"}
        distributed.same("their settings", settings)
        distributed.check_shared(workdir)
        began = time.monotonic()
        with _alone(workdir):
            run(cfg, workdir)
        if distributed.primary():
            command_summary.trained(cfg, workdir, time.monotonic() - began)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Hold the lock of the workdir on process 0, for all processes. All raise ValueError if the lock is taken."""
    with contextlib.ExitStack() as held:
        refusal = ""
        try:
            if distributed.primary():
                held.enter_context(workdir_lock.locked(workdir))
        except ValueError as error:
            refusal = str(error)
        if refusal := distributed.gather_bytes(refusal.encode())[0].decode():
            raise ValueError(refusal)
        yield
