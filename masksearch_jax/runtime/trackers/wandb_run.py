"""Weights & Biases: the rows of metrics.jsonl, distributions and sampled text of a stage as one run.

The run of W/<stage> has its id in W/<stage>/wandb.json, so that a stage that is started again continues the same run.
Its history is cut to the step that the stage resumes from (W&B calls that rewind), as metrics.jsonl is. The stages of a
workdir are runs of one group. With the mode offline nothing leaves the machine: W/<stage>/wandb holds what
`wandb sync` can send later.
"""

import html
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from masksearch_jax.runtime import json_files, progress
from masksearch_jax.runtime.metrics import Histogram
from masksearch_jax.runtime.types import Json

MODES = ("online", "offline")


class WandbRun:
    """Sends one stage to Weights & Biases; a `metrics.Tracker`."""

    def __init__(self, folder: Path, project: str, name: str, mode: str, settings: Mapping[str, Json]):
        """folder: W/<stage>. name: of the group of stages, by default the name of the workdir. mode: one of MODES.

        settings: of the whole run, for W&B to show.
        """
        import wandb  # imported only if it is on

        self._wandb = wandb
        self._folder, self._project, self._mode, self._settings = folder, project, mode, settings
        self._group = name or folder.resolve().parent.name
        self._run: Json = None  # wandb's Run; its package is not there for mypy
        self._silent = False  # W&B is down, and nothing is written for it

    def cut(self, step: int) -> None:
        """Open the run. One that exists already is continued, without what it has after `step`.

        A new run raises ValueError if W&B refuses to open it, for instance without a login or a network. A run that is
        known does not end the training for that: its rows are kept on this machine, and one line says so.
        """
        self.close()
        self._silent = False
        path = self._folder / "wandb.json"
        if path.exists():
            again = "remove the file: the stage then begins a new run of W&B"
            self._continue(json_files.read_json_object(path, again, required=("id",))["id"], step)
            return
        number = secrets.token_hex(6)
        try:
            self._run = self._open({"id": number}, self._mode)
        except self._wandb.Error as error:
            raise ValueError(
                f"wandb.project={self._project!r}: Weights & Biases did not open a run ({error}); log in with "
                "`wandb login`, or set wandb.mode=offline"
            ) from error
        json_files.write_json(path, {"id": number, "project": self._project})

    def _continue(self, number: str, step: int) -> None:
        rewound = {"resume_from": f"{number}?_step={step}"}
        try:
            self._run = self._open(rewound, self._mode)
            return
        except self._wandb.Error as refused:
            uncut = refused
        try:
            self._run = self._open({"id": number, "resume": "allow"}, self._mode)
            said = f"keeps its rows after step {step}, its server does not cut: {uncut}"
        except self._wandb.Error as down:
            try:
                self._run = self._open(rewound, "offline")
                said = f"is written to {self._folder / 'wandb'} alone; `wandb sync` sends it later"
            except self._wandb.Error:
                self._silent = True
                said = "gets no rows until the next start, metrics.jsonl has them"
            said += f": Weights & Biases did not open it ({down})"
        progress.print_message("wandb", f"the run {number} {said}")

    def _open(self, how: Mapping[str, str], mode: str) -> Json:
        self._folder.mkdir(parents=True, exist_ok=True)
        quiet = self._wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        return self._wandb.init(
            project=self._project, name=f"{self._group}/{self._folder.name}", group=self._group, mode=mode,
            dir=str(self._folder), config=dict(self._settings), settings=quiet, **how,
        )  # fmt: skip

    def write(self, step: int, row: Mapping[str, Json]) -> None:
        self._log(step, {name: value for name, value in row.items() if isinstance(value, int | float)})

    def samples(self, step: int, texts: Mapping[str, str], histograms: Callable[[], Mapping[str, Histogram]]) -> None:
        shown: dict[str, Json] = {
            name: self._wandb.Html(f"<pre style='white-space:pre-wrap'>{html.escape(text)}</pre>", inject=False)
            for name, text in texts.items()
        }
        for name, one in histograms().items():
            shown[name] = self._wandb.Histogram(np_histogram=(one.counts, one.edges))
        self._log(step, shown)

    def _log(self, step: int, values: Mapping[str, Json]) -> None:
        if self._run is None and not self._silent:
            self.cut(step - 1)
        if self._silent:
            return
        # A run that was cut to a step takes later steps alone, and an overdue validation belongs to that step.
        self._run.log(dict(values), step=max(step, self._run.step))

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
