"""What an entry opens before its one call: mesh, tokenizer, model config, passages, search tools, rollout engines.

In: a page of settings and a workdir that holds W/data. Nothing is opened before it is asked for. Never imports prep.
"""

import functools
from pathlib import Path
from typing import Any

import jax

from masksearch_jax import sharding
from masksearch_jax.checkpoints import Checkpointer
from masksearch_jax.data import pipeline, records
from masksearch_jax.evals import runner
from masksearch_jax.model import config as model_config
from masksearch_jax.model import convert, transformer
from masksearch_jax.retrieval import client, remote
from masksearch_jax.retrieval.interface import Searcher
from masksearch_jax.retrieval.passages import PassageStore
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.rollout.decode import Sampling
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.rollout.scheduler import RolloutConfig, RolloutEngine
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.interface import Tokenizer
from masksearch_jax.trainers import state as state_lib


class Job:
    """The parts of a run, built once each."""

    def __init__(self, cfg: Any, workdir: Path):
        self.cfg, self.workdir = cfg, workdir

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(**self.cfg.mesh.to_dict())

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_lib.load(self.workdir / "data")

    @functools.cached_property
    def model_cfg(self) -> model_config.ModelConfig:
        """Sizes of the page's model, or of the published one that `cfg.pretrained` names."""
        if not self.cfg.pretrained:
            return model_config.from_config(self.cfg.model, vocab_size=self.tokenizer.vocab_size)
        chosen = {name: self.cfg.model[name] for name in ("dtype", "param_dtype", "remat")}
        found = convert.read_config(self.cfg.pretrained, **chosen)
        if found.vocab_size < self.tokenizer.vocab_size:  # more rows than pieces are padding, as published
            raise ValueError(
                f"pretrained={self.cfg.pretrained}: {found.vocab_size} embeddings for the {self.tokenizer.vocab_size} "
                f"pieces of {self.workdir / 'data'}; prepare with --config.tokenizer_dir={self.cfg.pretrained}"
            )
        return found

    @functools.cached_property
    def passages(self) -> PassageStore:
        return PassageStore(self.workdir / "data" / "passages.array_record")

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a Job lives as long as its process)
    def searcher(self, index: str) -> Searcher:
        """The search tool over W/data/index/<index>: 'train', 'validation' (train and validation) or 'all'; or over
        the server of `cfg.search.url`, waited for."""
        settings, mode = remote.settings_of(self.cfg.search), self.cfg.search.exclusion
        folder = self.workdir / "data" / "index" / index
        local = functools.partial(SearchTool.load, folder, self.passages, mode)
        return client.connect(settings, index, folder, self.passages, mode, local) if settings else local()

    def engine(self, index: str, temperature: float = 1.0) -> RolloutEngine:
        """A rollout engine with its own slots over one index."""
        settings = self.cfg.rollout
        rollout = RolloutConfig(
            slots=settings.slots,
            limits=EpisodeLimits(**self.cfg.episode.to_dict()),
            sampling=Sampling(temperature, settings.top_p, settings.top_k),
            steps=settings.steps,
            hits=self.cfg.search.hits,
            search_ticks=settings.search_ticks,
            search_batch=settings.search_batch,
            search_threads=settings.search_threads,
            prompt_rows=settings.prompt_rows,
            prompt_lengths=tuple(settings.prompt_lengths),
            append_rows=tuple(settings.append_rows),
            append_tokens=tuple(settings.append_tokens),
        )
        return RolloutEngine(rollout, self.model_cfg, self.tokenizer, self.searcher(index), self.mesh)

    def parameters(self, stage: str, step: int | None = None) -> Any:
        """Parameters of a stage's checkpoint in the TRAIN layout. Raises FileNotFoundError if there is none."""
        checkpoints = Checkpointer(self.workdir / stage / "checkpoints", read_only=True)
        abstract = {"params": transformer.abstract_params(self.model_cfg, self.mesh)}
        state, _, _ = checkpoints.restore(step, abstract, partial=True)
        checkpoints.close()
        return state["params"]

    def initial(self) -> Any:
        """Parameters that training starts from, in the TRAIN layout: those of `cfg.pretrained`, or fresh ones."""
        if not self.cfg.pretrained:
            return transformer.init_params(self.model_cfg, self.cfg.seed, self.mesh)
        chosen = {name: self.cfg.model[name] for name in ("dtype", "param_dtype", "remat")}
        return convert.load_pretrained(self.cfg.pretrained, self.mesh, **chosen)[1]

    def tasks(self, split: str, level: int, count: int) -> list[records.Task]:
        """The first `count` tasks of a held-out split, over its epochs in order; level 0 is question answering."""
        found: list[records.Task] = []
        for path in pipeline.task_files(self.workdir / "data" / "tasks", split, level):
            for task in records.read(path, records.Task):
                if len(found) == count:
                    return found
                found.append(task)
        return found

    def has_questions(self, split: str) -> bool:
        """True if prepare was given questions for this split."""
        return (self.workdir / "data" / "tasks" / split / "qa").is_dir()

    def validation(self, episodes: int) -> "Validation":
        """Greedy evaluation on the validation split while training, over an index that holds no test passage."""
        return Validation(self, episodes)


class Validation:
    """(params, step) -> scores: recall per mask level on validation tasks, for the curves of a run."""

    def __init__(self, job: Job, episodes: int):
        self._engine = job.engine("validation")
        self._tasks = {level: job.tasks("validation", level, episodes) for level in (1, 2)}
        self._decode_copy = state_lib.decode_copy(job.model_cfg, job.mesh)

    def __call__(self, params: Any, step: int) -> dict[str, float]:
        params = self._decode_copy(params)
        scores = {}
        for level, tasks in self._tasks.items():
            summary = runner.summarise(runner.evaluate(self._engine, params, tasks))
            scores |= {f"masks_{level}/{name}": summary[name] for name in ("recall", "format", "searches", "hit")}
        return scores
