"""A stage in training: its checkpoints, its log, its evaluation, and how it starts, saves and stops.

SFT and DAPO share this. Enters: the config, a workdir and a policy. Leaves: W/<name>/checkpoints, metrics.jsonl,
config.json and history.jsonl (the settings of every start). The train state is passed in and never kept, because each
step donates it. Left out: data and steps.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import jax
import optax

from masksearch_jax.model import adapter_facts
from masksearch_jax.model.policy import Policy
from masksearch_jax.runtime import distributed, metrics, progress, settings_history, stop_signals, trackers
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.stage_view import StageView
from masksearch_jax.runtime.types import ConfigSection, Json, JsonObject, Params
from masksearch_jax.trainers import alarms, rollback
from masksearch_jax.trainers import optimizer as optimizer_lib
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
    machine. watch: counts the steps without an update, from `begin` on. alarms: judge every row of `write`. alarmed:
    the name of the alarm that ends the run, '' if none does. rollback: whether to return to the last good checkpoint.
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
        self._trace = StepTrace(cfg.profile, self.folder / "profile", name, self.print_message, primary)
        self.base: Params = {}
        self._cfg, self._policy, self._evaluate = cfg, policy, evaluate
        self._history = _history(cfg, workdir, name, kind, policy)
        self._facts: JsonObject = {}
        self.alarms, self.alarmed = alarms.Alarms(cfg.alarms, kind, self.unit), ""
        self.rollback = rollback.Rollback(self.settings.rollback, self._history, self.log.path)
        self._returned: int | None = None
        self._not_finite = 0

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
        newest = self.checkpoints.meta()
        adapter_facts.check_adapters(newest, adapters, self.folder)
        return self._load(tx, self.rollback.unfinished(newest.get("rollbacks", 0)))

    def _load(
        self, tx: optax.GradientTransformation, returning: Mapping[str, Json] | None
    ) -> tuple[state_lib.TrainState, Saved]:
        """Return the newest checkpoint's state and what it holds beside it.

        returning: the record of a rollback. Checkpoints after the good one are renamed then, and the data is that of
        the record.
        """
        if returning:
            self.checkpoints.set_aside_after(returning["to"])
        state, meta, cursor = self.checkpoints.restore(None, state_lib.abstract_state(self._policy, tx))
        if isinstance(cursor, bytes):
            raise ValueError(
                f"{self.folder}: its checkpoint has the data position of another program; take another --workdir"
            )
        if returning:
            meta, cursor = rollback.moved_past(returning, meta)
        self.rollback.count, self._not_finite = meta.get("rollbacks", 0), meta.get("not_finite", 0)
        self.alarms.set_state(meta.get("alarms", {}))
        return state, Saved(meta, cursor)

    def begin(
        self, step: int, state: state_lib.TrainState, meta: Mapping[str, Json], cursor: Mapping[str, Json]
    ) -> None:
        """Enter this start into the history, cut the log after `step`, and begin to watch for steps without an update.

        Where rollback is on, a start from step 0 is saved, with `meta` and `cursor` as in `save`. Raises DivergedError
        if the parameters are not finite.
        """
        self._history.begin(step)
        check_finite(state.params, f"{self.name} at {self.unit} {step}")
        self._go_on(step)
        if self.rollback.on and self.checkpoints.latest() is None:
            self.save(step, state, meta, cursor)
            self.checkpoints.confirm(step)

    def _go_on(self, step: int) -> None:
        """Cut the log after `step`, and watch the steps from there."""
        self.log.cut(step)  # also at 0, because a run that was killed before its first checkpoint has left rows
        doubtful = [step] if step else []
        every = self.settings.checkpoint_every
        section = self._cfg[self.name]
        proof = self.alarms.longest_window("rollback") * (section["log_every"] if "log_every" in section else 1)
        if self.rollback.on:
            # The same candidates as in a run that was never killed: without those that a stop signal made it save.
            good = -1 if self.checkpoints.known_good is None else self.checkpoints.known_good
            doubtful = [saved for saved in self.checkpoints.steps() if saved % every == 0 and good < saved <= step]
        self.watch = UpdateWatch(
            self.name,
            f"{self.unit}s",
            self.settings.max_without_update,
            self.settings.optimizer.learning_rate * self.rollback.scale,
            step,
            early=self.rollback.after,
            proof=proof if self.rollback.on else 0,
            doubtful=doubtful,
            not_finite=self._not_finite,
        )
        self.alarms.started()
        self.rollback.wanted = ""
        self._hold()

    def _hold(self) -> None:
        """Keep the saved steps that may still turn out to be good; without rollback only the newest two are kept."""
        if self.rollback.on:
            self.checkpoints.held = tuple(self.watch.doubtful[: self.watch.proof // self.settings.checkpoint_every + 2])

    def print_message(self, text: str) -> None:
        progress.print_message(self.name, text, distributed.primary())

    def print_start(self, step: int, then: str) -> None:
        """Print from where to where the stage trains, and what it does next."""
        begin = f"goes on from {self.unit} {step}" if step else "from the start"
        self.print_message(f"{begin} to {self.unit} {self.last}; {then}")

    def steps(self, start: int) -> Iterator[int]:
        """Yield the numbers of the steps after `start`, after a rollback those after its end.

        Shows the progress, and traces the steps of `profile`.
        """
        self._returned = start
        while self._returned is not None:
            begin, self._returned = self._returned, None
            for step in self._trace.around(self.view.steps(begin, self.last)):
                yield step
                if self._returned is not None:
                    break

    def write(self, step: int, row: Mapping[str, Json]) -> None:
        """Log a row with its alarms, and say which of them start and end.

        All processes call this together. An alarm that starts ends the run (`alarmed`) or asks for a rollback, if that
        is its action.
        """
        before = self.alarms.on
        verdicts = self.alarms.judge(step, self._agreed(row))
        for verdict in verdicts:
            self.print_message(verdict.sentence)
            if verdict.starts and verdict.action == "stop":
                self.alarmed = verdict.name
            if verdict.starts and verdict.action == "rollback" and self.rollback.on:
                self.rollback.wanted = verdict.sentence
        now = self.alarms.on
        marks = {f"alarm/{name}": int(name in now) for name in dict.fromkeys([*before, *now])}
        returned = {"rollbacks": self.rollback.count} if self.rollback.on else {}
        self.log.write(step, {**row, **marks, **returned})

    def _agreed(self, row: Mapping[str, Json]) -> JsonObject:
        """Return the numbers of a row as all processes judge them, with the free space of the workdir's file system."""
        numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        numbers[alarms.DISK] = shutil.disk_usage(self.folder).free / 1e9
        rows = [json.loads(one) for one in distributed.gather_bytes(json.dumps(numbers).encode())]
        return alarms.combine(rows)

    def roll_back(
        self, tx: optax.GradientTransformation, state: state_lib.TrainState, step: int, cursor: Mapping[str, Json]
    ) -> tuple[state_lib.TrainState, Saved]:
        """Return to the last good checkpoint because of `rollback.wanted`: its state, and the data that come now.

        state: deleted, because two may not fit into memory. step: the last bad one. cursor: the position in the data
        after it. The learning rates are those of `scaled` from then on. Raises DivergedError if there is no good
        checkpoint or if the stage returned as often as it may.
        """
        self.watch.review(self.checkpoints)
        good, why = self.checkpoints.known_good, self.rollback.wanted
        if good is None or self.rollback.exhausted:
            self.watch.give_up(self.checkpoints, f"{why}; it returned to a good checkpoint {self.rollback.count} times")
        self.checkpoints.wait()
        jax.tree.map(lambda leaf: leaf.delete(), state)
        state, saved = self._load(tx, self.rollback.record(step, good, cursor))
        back = int(state.step) if self.unit == "step" else saved.meta["version"]
        self._go_on(back)
        self._returned, first = back, why.partition(". ")[0]
        self.print_message(
            f"rolled back from {self.unit} {step} to {back} (rollback {self.rollback.count}): {first}; the data "
            f"go on after those of {self.unit} {step}, at {self.rollback.scale:g} times the learning rate"
        )
        return state, saved

    def scaled(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return the optimizer at the learning rates after the rollbacks so far."""
        return optimizer_lib.scaled(tx, self.rollback.scale)

    def params(self, state: state_lib.TrainState) -> Params:
        """Return the whole parameters of a state."""
        return self._policy.merge(state.params, self.base)

    def settle(self, step: int) -> None:
        """Judge the steps so far, and ask for a rollback if that is on and too many in a row had no finite gradient.

        Otherwise raises DivergedError if too many in a row made no update (`UpdateWatch.settle`).
        """
        self.watch.review(self.checkpoints)
        bad = self.watch.not_finite
        if self.rollback.on and (bad >= self.rollback.after or step == self.last and self.watch.ruined):
            self.rollback.wanted = f"{bad} {self.unit}s in a row had no finite gradient"
            return
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
        memory: JsonObject = {"alarms": self.alarms.get_state()}
        if self.rollback.on or self.rollback.count:
            memory |= {"rollbacks": self.rollback.count, "not_finite": self.watch.not_finite}
        self.view.saved(step)
        with jax.profiler.TraceAnnotation("checkpoint"):
            self.checkpoints.save(step, state, {**meta, **self._facts, **memory, **due}, cursor)
        if not self.rollback.on or step % self.settings.checkpoint_every == 0:
            self.watch.saved(step)
            self._hold()

    def stop(self, step: int) -> NoReturn:
        """Raise PreemptedError, or AlarmError if an alarm ends the run, once what it says was saved is on disk."""
        self.checkpoints.wait()
        # With several processes each ends at once after the error, so what process 0 alone writes is finished first.
        self._trace.stop(step)
        self.log.close()
        distributed.every(True)  # the others wait for it: a process that is gone would end it with another status
        if self.alarmed:
            raise stop_signals.AlarmError(
                f"{self.name} was stopped by the alarm {self.alarmed}, whose line stands above, and saved {self.unit} "
                f"{step}; change what it names, or set alarms.{self.alarmed}.action='log', and start it again to go on"
            )
        raise distributed.PreemptedError(
            f"{self.name} was told to stop and saved {self.unit} {step}; start it again to go on"
        ) from None

    def finish(self, state: state_lib.TrainState) -> Params:
        """Close the files and return the final parameters."""
        self.checkpoints.wait()
        self._history.check_present()
        self.checkpoints.close()
        self.log.close()
        self.print_message(f"done: {self.unit} {self.last} in {self.folder / 'checkpoints'}")
        return self.params(state)
