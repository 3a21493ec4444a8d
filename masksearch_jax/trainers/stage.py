"""A stage in training: its checkpoints, its log, its evaluation, and how it starts, saves and stops.

SFT and DAPO share this. Enters: the config, a workdir and a policy. Leaves: W/<name>/checkpoints, metrics.jsonl,
config.json and history.jsonl (the settings of every start). The train state is passed in and never kept, because each
step donates it. Left out: data and steps.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import jax
import optax

from masksearch_jax.model import adapter_facts
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import distributed, metrics, progress, settings_history, trackers
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.stage_view import StageView
from masksearch_jax.runtime.types import ConfigSection, Json, JsonObject, Params
from masksearch_jax.trainers import state as state_lib
from masksearch_jax.trainers.divergence import UpdateWatch, check_finite
from masksearch_jax.trainers.stage_costs import StageCosts
from masksearch_jax.trainers.stage_settings import StageSettings
from masksearch_jax.trainers.step_trace import StepTrace

# (params, step) -> scores
Evaluate = Callable[[Params, int], JsonObject]
_UNITS = {"sft": "step", "dapo": "iteration"}


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a checkpoint holds beside the train state. meta: facts, JSON data. cursor: the position in the data."""

    meta: Mapping[str, Json]
    cursor: Mapping[str, Json]


def changed_settings(
    cfg: ConfigSection, workdir: Path, name: str, kind: str, policy: Policy
) -> settings_history.Differences:
    """Return how the settings of W/<name> differ from those of its last start. kind: 'sft' or 'dapo'.

    Raises ValueError if a setting that its checkpoint fixes (runtime/settings_history.py) has changed.
    """
    return _history(cfg, workdir, name, kind, policy).differences()


def _history(cfg, workdir, name, kind, policy):
    settings, model = cfg.to_dict(), dataclasses.asdict(policy.config)
    return settings_history.Stage(workdir / name, kind, settings, model, primary=distributed.primary())


class TrainingStage:
    """The stage W/<name> while it trains.

    settings: the section `cfg.<name>`. last: the step, or the iteration of DAPO, at which it ends. base: the frozen
    base of adapters, {} without adapters. view: what a person sees. costs: what the rows of the log say about the
    machine. watch: counts the steps without an update, from `begin` on.
    """

    watch: UpdateWatch

    def __init__(
        self, cfg: ConfigSection, workdir: Path, name: str, kind: str, policy: Policy, evaluate: Evaluate | None = None
    ):
        """kind: 'sft' or 'dapo'. evaluate: called every `eval_every` steps."""
        self.name, self.folder = name, workdir / name
        self.settings: StageSettings = cfg[name]
        self.unit = _UNITS[kind]
        self.last: int = cfg[name][f"{self.unit}s"]
        self.checkpoints = Checkpointer(self.folder / "checkpoints", keep=2)
        primary = distributed.primary()
        self.view = StageView(name, self.unit, self.folder, primary)
        shown = trackers.chosen(cfg, self.folder, settings_history.plain(cfg.to_dict())) if primary else []
        self.log = metrics.MetricsLog(self.folder, primary, [self.view, *shown])
        self.costs = StageCosts(policy.mesh)
        self._trace = StepTrace(cfg.profile, self.folder / "profile", name, self.say, primary)
        self.base: Params = {}
        self._cfg, self._policy, self._evaluate = cfg, policy, evaluate
        self._history = _history(cfg, workdir, name, kind, policy)
        self._facts: JsonObject = {}

    @property
    def needs_params(self) -> bool:
        """True if `start` needs parameters: there is no checkpoint, or it holds adapters without their base."""
        return bool(self._policy.config.lora) or self.checkpoints.latest() is None

    def start(
        self, tx: optax.GradientTransformation, params: Params | None, facts: Mapping[str, Json]
    ) -> tuple[state_lib.TrainState, Saved | None]:
        """Return the newest checkpoint's state and what it holds beside it, or a new state of `params` and None.

        params may be None unless `needs_params`. facts: JSON data that every checkpoint of this run records. Raises
        ValueError if the checkpoint has other adapters or another base.
        """
        if params is not None:
            self.base = self._policy.split(params)[1]
        adapters = adapter_facts.describe(self._policy.config, self.base, self._cfg.pretrained, self._cfg.seed)
        self._facts = {**facts, **adapters}
        if self.checkpoints.latest() is None:
            assert params is not None  # needs_params
            return state_lib.create_state(self._policy, tx, params), None
        adapter_facts.check_adapters(self.checkpoints.meta(), adapters, self.folder)
        state, meta, cursor = self.checkpoints.restore(None, state_lib.abstract_state(self._policy, tx))
        if isinstance(cursor, bytes):
            raise ValueError(
                f"{self.folder}: its checkpoint has the data position of another program; take another --workdir"
            )
        return state, Saved(meta, cursor)

    def begin(self, step: int, state: state_lib.TrainState) -> None:
        """Enter this start into the history, cut the log after `step`, and begin to watch for steps without an update.

        Raises DivergedError if the parameters are not finite.
        """
        self.log.cut(step)  # also at 0, because a run that was killed before its first checkpoint has left rows
        self._history.begin(step)
        check_finite(state.params, f"{self.name} at {self.unit} {step}")
        self.watch = UpdateWatch(
            self.name,
            f"{self.unit}s",
            self.settings.max_without_update,
            self.settings.optimizer.learning_rate,
            step,
        )
        if step:
            self.watch.saved(step)

    def say(self, text: str) -> None:
        progress.say(self.name, text, distributed.primary())

    def say_start(self, step: int, then: str) -> None:
        """Print from where to where the stage trains, and what it does next."""
        begin = f"goes on from {self.unit} {step}" if step else "from the start"
        self.say(f"{begin} to {self.unit} {self.last}; {then}")

    def steps(self, start: int) -> Iterator[int]:
        """Yield the numbers of the steps after `start`, show the progress, and trace the steps of `profile`."""
        return self._trace.around(self.view.steps(start, self.last))

    def params(self, state: state_lib.TrainState) -> Params:
        """Return the whole parameters of a state."""
        return self._policy.merge(state.params, self.base)

    def settle(self, step: int) -> None:
        """Judge the steps so far. Raises DivergedError if too many in a row made no update (`UpdateWatch.settle`)."""
        self.watch.settle(self.checkpoints, last=step == self.last)

    def evaluates(self, step: int) -> bool:
        """Return True if an evaluation is due after this step. The last step has none: the stage is evaluated whole."""
        every = self.settings.eval_every
        return bool(self._evaluate and every) and step % every == 0 and step < self.last

    def evaluate(self, step: int, state: state_lib.TrainState) -> bool:
        """Log the scores of the parameters. Returns False if a stop signal interrupted that."""
        assert self._evaluate is not None  # evaluates() was true
        try:
            self._score(self._evaluate, step, state)
        except distributed.PreemptedError:
            return False
        return True

    def evaluate_overdue(self, step: int, state: state_lib.TrainState, saved: Saved | None) -> None:
        """Do the evaluation that a stop signal interrupted before the checkpoint was saved."""
        if saved and saved.meta.get("evaluation_due") and self._evaluate:
            self._score(self._evaluate, step, state)

    def _score(self, evaluate: Evaluate, step: int, state: state_lib.TrainState) -> None:
        with jax.profiler.TraceAnnotation("evaluation"):
            found = evaluate(self.params(state), step)
        self.log.write(step, {f"eval/{name}": value for name, value in found.items()})
        if example := getattr(evaluate, "example", ""):
            self.log.samples(step, {"validation": example})

    def saves(self, step: int) -> bool:
        """Return True if a checkpoint is due after this step."""
        return step % self.settings.checkpoint_every == 0 or step == self.last

    def save(
        self,
        step: int,
        state: state_lib.TrainState,
        meta: Mapping[str, Json],
        cursor: Mapping[str, Json],
        evaluated: bool = True,
    ) -> None:
        """Save a checkpoint.

        meta: JSON data beside the facts of `start`. cursor: the position in the data. evaluated: False if the
        evaluation after this step is left to the resumed run. Raises DivergedError as `settle`, and FileNotFoundError
        if the folder was removed.
        """
        self.watch.settle(self.checkpoints)
        self._history.check_present()
        due = {} if evaluated else {"evaluation_due": True}
        self.view.saved(step)
        with jax.profiler.TraceAnnotation("checkpoint"):
            self.checkpoints.save(step, state, {**meta, **self._facts, **due}, cursor)
        self.watch.saved(step)

    def stop(self, step: int) -> NoReturn:
        """Raise PreemptedError that says what was saved, once it is on disk."""
        self.checkpoints.wait()
        raise distributed.PreemptedError(
            f"{self.name} was told to stop and saved {self.unit} {step}; start it again to go on"
        ) from None

    def finish(self, state: state_lib.TrainState) -> Params:
        """Close the files and return the final parameters."""
        self.checkpoints.wait()
        self._history.check_present()
        self.checkpoints.close()
        self.log.close()
        self.say(f"done: {self.unit} {self.last} in {self.folder / 'checkpoints'}")
        return self.params(state)
