"""Entry: trains one stage, after making whatever that stage needs and W does not have.

    python -m masksearch_jax.train --config=configs/dapo.py --workdir=W
    python -m masksearch_jax.train --config=configs/sft.py --workdir=W --config.sft.steps=300

Order: data (its own process, since it needs TensorFlow and this one must not), demonstrations, SFT warm start, the
stage itself. `--config.start=FOLDER/STAGE` starts from the last checkpoint there, which it leaves alone: SFT goes on
from it, and DAPO takes it as its warm start, without SFT before it. So stage II follows stage I. Killed at any moment
and started again with the same line, a run goes on and ends with the same parameters bit for bit.
"""

import contextlib
import os
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from masksearch_jax import distributed, entry, language_model, synthesize
from masksearch_jax import job as job_lib
from masksearch_jax.agents.answer_judge import AnswerJudge
from masksearch_jax.checkpoints import Checkpointer
from masksearch_jax.model import config as model_config
from masksearch_jax.model import convert, lora
from masksearch_jax.model.config import lora_from_config
from masksearch_jax.retrieval import remote
from masksearch_jax.runtime import child_process, json_files, settings_history, workdir_lock
from masksearch_jax.runtime.config_files import find_config
from masksearch_jax.trainers import dapo, sft
from masksearch_jax.workflows import prepared_data
from masksearch_jax.workflows.settings import trains_sft, validate_settings, validate_shapes

_PREPARE_PAGE = "configs/prepare.py"
_AGAIN = "remove its folder, and start again: the demonstrations are then made anew"


def run(cfg: Any, workdir: Path) -> Any:
    """Runs `cfg.job` ('sft' or 'dapo') in W with everything that it needs; returns the final parameters."""
    if cfg.job not in ("sft", "dapo"):
        raise ValueError(f"job={cfg.job!r} is none of ('sft', 'dapo')")
    check(cfg)
    job = job_lib.Job(cfg, workdir)
    if cfg.model.attention != "xla":  # refused, if it must be, before data is made; xla asks nothing of the devices
        say(f"attention of training rows: {job.architecture.attention}")
    validate_shapes(cfg, job.mesh)
    ensure_data(cfg, workdir)
    check_stages(job)
    if cfg.job == "dapo" and (cfg.start or not cfg.warm_start):
        return train_dapo(job)
    ensure_demonstrations(job)
    params = train_sft(job)
    return params if cfg.job == "sft" else train_dapo(job, params)


def check(cfg: Any) -> None:
    """Refuses settings that would waste a run, before anything is made. Raises ValueError that names the setting, and
    FileNotFoundError for a published folder that is not there."""
    validate_settings(cfg)
    remote.settings_of(cfg.search)
    adapters = lora_from_config(cfg.lora)
    if cfg.pretrained:
        convert.read_config(cfg.pretrained)
    else:
        model_config.from_config(cfg.model, **({} if "vocab_size" in cfg.model else {"vocab_size": 1}), lora=adapters)
    if cfg.start and not (Path(cfg.start) / "checkpoints").is_dir():
        raise ValueError(
            f"start={cfg.start} holds no checkpoints; name the folder of a trained stage, such as runs/dapo/dapo"
        )
    if adapters and adapters.base_quantisation:
        lora.qwix()
    if trains_sft(cfg):  # on demonstrations
        synthesize.check(cfg)
    if cfg.job == "sft":
        return
    if cfg.rollout.top_p != 1.0 or cfg.rollout.top_k != 0:
        raise ValueError(
            f"rollout.top_p={cfg.rollout.top_p}, top_k={cfg.rollout.top_k}: RL samples from the whole distribution, or "
            "the log-probs of sampler and trainer disagree by construction; set top_p=1.0 and top_k=0"
        )
    if cfg.dapo.staleness and not cfg.dapo.tis_cap:
        raise ValueError("dapo.staleness=1 needs importance weights for the lag: set dapo.tis_cap=2.0")
    if cfg.dapo.staleness and cfg.dapo.carry_over:
        raise ValueError("dapo.staleness=1 with carry_over: surplus would be two versions old; switch one off")
    if cfg.dapo.reward.answer == "judge":
        language_model.check(cfg.llm, "dapo.reward.answer='judge'")
        if cfg.distributed.processes > 1 and not cfg.llm.url:
            raise ValueError("dapo.reward.answer='judge' on several processes needs llm.url: process 0 alone asks")


def ensure_data(cfg: Any, workdir: Path) -> None:
    """Prepares W/data in a process of its own unless it is there. Several processes refuse and print the command
    instead. Raises ValueError for data that was made with other settings than the run states."""
    command = prepare_command(cfg.prepare, workdir)
    if (workdir / "data" / "manifest.json").exists():
        prepared_data.check(cfg, workdir, shlex.join(command), say=distributed.primary())
        return
    if cfg.distributed.processes > 1:
        raise ValueError(
            f"{workdir / 'data'} is not prepared, and {cfg.distributed.processes} processes would all prepare it. "
            f"Run this once, where every process sees {workdir}:\n  {' '.join(command)}"
        )
    say(f"{workdir / 'data'} is missing: preparing it\n  {' '.join(command)}")
    # On the CPU, whatever the trainer runs on: preparation never takes an accelerator.
    child_process.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def prepare_command(settings: ConfigDict, workdir: Path) -> list[str]:
    """The command line that prepares with `settings`: the page, and an override for each value that differs from it."""
    page = find_config(_PREPARE_PAGE)
    defaults = _leaves(runpy.run_path(page)["get_config"]())
    changed = {name: value for name, value in _leaves(settings).items() if defaults.get(name) != value}
    return [
        sys.executable, "-m", "masksearch_jax.prepare", f"--config={page}", f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]  # fmt: skip


def _leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in config.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return found


def ensure_demonstrations(job: job_lib.Job) -> None:
    """Synthesises W/demonstrations unless they are there, or refuses if they were made with other settings."""
    target = job.workdir / "demonstrations" / "manifest.json"
    settings = synthesize.deciding(synthesize.settings(job.cfg))
    if not target.exists():
        if job.cfg.distributed.processes > 1:
            raise ValueError(
                f"{target.parent} is missing, and {job.cfg.distributed.processes} processes would all synthesise it. "
                "Run `python -m masksearch_jax.synthesize` once, with this --config and its overrides but "
                f"distributed, and --workdir={job.workdir}, where every process sees it"
            )
        say(f"{target.parent} is missing: synthesising it")
        synthesize.run(job.cfg, job.workdir, job.searcher("train"))
        return
    again = f"remove {target.parent}, and the same line makes it again"
    made = synthesize.deciding(json_files.read_json_object(target, again, required=("settings",))["settings"])
    if made != settings:
        there, here = (dict(settings_history.leaves(value)) for value in (made, settings))
        different = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
        raise ValueError(
            f"{target.parent} was made with other settings: "
            + "; ".join(f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in different)
            + "; give the settings that it has, remove the folder, or take another --workdir"
        )


def train_sft(job: job_lib.Job, name: str = "sft", params: Any = None) -> Any:
    """SFT under W/<name>, or its final parameters if it is finished. Raises ValueError for settings that a stage which
    has a checkpoint was not trained with."""
    changed = sft.stage_of(job.cfg, job.workdir, name, "sft", job.model_cfg).differences()
    if finished(job, name, job.cfg[name].steps):
        _say_finished(job.workdir / name, changed)
        return job.parameters(name)
    evaluate = job.validation(job.cfg.validation_episodes) if job.cfg[name].eval_every else None
    if params is None:
        params = job.initial()
    say_optimizer(job.cfg, name)
    with jax.set_mesh(job.mesh):
        return sft.run(job.cfg, job.workdir, job.model_cfg, job.mesh, name=name, params=params, evaluate=evaluate)


def train_dapo(job: job_lib.Job, params: Any = None) -> Any:
    """DAPO under W/dapo from given parameters (default: what the page starts from), or its final parameters if it is
    finished. Raises ValueError for settings that a stage which has a checkpoint was not trained with."""
    changed = sft.stage_of(job.cfg, job.workdir, "dapo", "dapo", job.model_cfg).differences()
    if finished(job, "dapo", job.cfg.dapo.iterations):
        _say_finished(job.workdir / "dapo", changed)
        return job.parameters("dapo")
    if params is None:
        params = job.initial()
    evaluate = job.validation(job.cfg.validation_episodes) if job.cfg.dapo.eval_every else None
    engine = job.engine("train", temperature=job.cfg.dapo.temperature)
    judge = answer_judge(job, job.cfg.dapo.judge) if job.cfg.dapo.reward.answer == "judge" else None
    say_optimizer(job.cfg, "dapo")
    with jax.set_mesh(job.mesh):
        return dapo.run(
            job.cfg, job.workdir, job.model_cfg, job.mesh, engine, params=params, evaluate=evaluate, judge=judge
        )


def answer_judge(job: job_lib.Job, settings: Any) -> Callable:
    """The judge of `cfg.llm`, with its replies in W/llm.sqlite; process 0 alone has one to ask."""
    if not distributed.primary():
        return lambda asked: []
    client = language_model.connect(job.cfg.llm, job.workdir / "llm.sqlite")
    return AnswerJudge(client, language_model.sampling(job.cfg.llm), **settings.to_dict())


def finished(job: job_lib.Job, stage: str, steps: int) -> bool:
    """True if the stage's newest checkpoint is its last step, and its files are those that were written."""
    folder = job.workdir / stage / "checkpoints"
    if not distributed.decide(folder.is_dir()):
        return False
    checkpoints = Checkpointer(folder, read_only=True)
    latest = checkpoints.newest_whole()
    checkpoints.close()
    return latest is not None and latest >= steps


def _say_finished(folder: Path, changed: settings_history.Differences) -> None:
    if changed and distributed.primary():
        settings_history.say_differences(f"{folder} is finished, and used as it is; it", changed)


def check_stages(job: job_lib.Job) -> None:
    """Refuses settings that the stages of this run which have a checkpoint were not trained with, before the work that
    comes first: ValueError."""
    warm = job.cfg.job == "dapo" and job.cfg.warm_start and not job.cfg.start
    kinds = ["sft", "dapo"] if warm else [job.cfg.job]
    for kind in kinds:
        if (job.workdir / kind).is_dir():
            sft.stage_of(job.cfg, job.workdir, kind, kind, job.model_cfg).differences()


def say_optimizer(cfg: Any, stage: str) -> None:
    """Says which optimizer trains a published model: its defaults are others than those from scratch."""
    if cfg.pretrained:
        chosen = cfg[stage].optimizer
        say(f"{stage}: {chosen.kind} at a learning rate of {chosen.learning_rate:g}, on {cfg.pretrained}")


def say(text: str) -> None:
    if distributed.primary():
        print(f"train: {text}", file=sys.stderr, flush=True)


def main(cfg: Any, workdir: Path) -> None:
    with distributed.processes(cfg.distributed):
        settings = {name: value for name, value in _leaves(cfg).items() if name != "distributed.process_id"}
        distributed.same("their settings", settings)
        distributed.check_shared(workdir)
        with _alone(workdir):
            run(cfg, workdir)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Holds the lock of the workdir, on process 0 for all of them; every process raises ValueError if it is taken."""
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


if __name__ == "__main__":
    entry.start(main, None)
