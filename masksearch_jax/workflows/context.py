"""The parts of a run that a command opens: mesh, tokenizer, model config, passages, search tools, rollout engines.

Enters: a config and a workdir that holds W/data. Each part is opened when it is first used. Never imports prep.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import QUESTIONS
from masksearch_jax.evals import runner
from masksearch_jax.model import adapter_facts, packed_attention
from masksearch_jax.model import config as model_config
from masksearch_jax.model.policy import Policy
from masksearch_jax.model.published import added_rows, families, load, peft
from masksearch_jax.retrieval.interface import Searcher
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import remote_settings, search_client
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.rollout import episode_text
from masksearch_jax.rollout.device_programs import Sampling
from masksearch_jax.rollout.engine import RolloutConfig, RolloutEngine
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.runtime import distributed, json_files, progress, settings_history
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.types import Params, Setting
from masksearch_jax.text import added_tags
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.text.tool_names import tool_names
from masksearch_jax.workflows import tools


class RunContext:
    """The parts of a run, each built once."""

    def __init__(self, cfg: ConfigDict, workdir: Path):
        self.cfg, self.workdir = cfg, workdir

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return mesh_lib.make_mesh(**self.cfg.mesh.to_dict())

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_lib.load(self.workdir / "data")

    @functools.cached_property
    def architecture(self) -> model_config.ModelConfig:
        """The config's model or the published model of `cfg.pretrained`, with adapters and attention backend set.

        Needs no data, so the vocabulary size of a config's model is not known yet.
        """
        adapters = model_config.lora_from_config(self.cfg.lora)
        if self.cfg.pretrained:
            found = dataclasses.replace(load.read_config(self.cfg.pretrained, **self._chosen), lora=adapters)
        else:
            found = model_config.from_config(self.cfg.model, vocab_size=1, lora=adapters)
        trees = self.cfg.get("stage") == "dapo" and self.cfg.dapo.share_prefixes
        return packed_attention.choose(found, self.mesh, row_lengths(self.cfg), trees)

    @functools.cached_property
    def policy(self) -> Policy:
        """`architecture` with the tokenizer's vocabulary size, on the mesh: what a trainer is handed."""
        return Policy(dataclasses.replace(self.architecture, vocab_size=self._vocab_size()), self.mesh)

    def _vocab_size(self) -> int:
        """Return the number of embeddings, which the tokenizer or the published model decides."""
        found = self.architecture
        if not self.cfg.pretrained:
            return self.tokenizer.vocab_size
        rows = added_rows.rows_for(found.vocab_size, list(self._added_tags))
        if rows < self.tokenizer.vocab_size:  # extra rows are padding of the published model
            raise ValueError(
                f"pretrained={self.cfg.pretrained}: {found.vocab_size} embeddings for the {self.tokenizer.vocab_size} "
                f"tokens of {self.workdir / 'data'}; prepare with --config.tokenizer_dir={self.cfg.pretrained}"
            )
        return rows

    @functools.cached_property
    def _added_tags(self) -> dict[int, list[int]]:
        """{id: the ids that spelled the tag before} for each tag that prepare.tokenizer.added_tags added.

        Raises ValueError if the config has adapters, which do not train embeddings.
        """
        found = added_tags.former_ids(self.tokenizer, Path(self.cfg.pretrained))
        if found and self.cfg.lora.rank:
            raise ValueError(
                f"lora.rank={self.cfg.lora.rank} with prepare.tokenizer.added_tags: adapters leave the embeddings of "
                "the new tags untrained; set lora.rank=0, or prepare without added_tags"
            )
        return found

    @property
    def _chosen(self) -> dict[str, Setting]:
        """The settings of a published model that the config decides; the rest comes from its config.json."""
        return {name: self.cfg.model[name] for name in ("dtype", "param_dtype", "remat", "attention")}

    @functools.cached_property
    def passages(self) -> PassageStore:
        return PassageStore(self.workdir / "data" / "passages.array_record")

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a context lives as long as its process)
    def searcher(self, index: str) -> Searcher:
        """Return the tools of an episode (`tools.searcher_of`); by default that is the search alone.

        It searches W/data/index/<index>, or the server of `cfg.search.url` once that is ready.

        index: 'train', 'validation' (train and validation), 'all' or 'fresh'.
        """
        settings, mode = remote_settings.settings_of(self.cfg.search), self.cfg.search.exclusion
        folder = self.workdir / "data" / "index" / index
        local = functools.partial(SearchTool.load, folder, self.passages, mode)

        def search() -> Searcher:
            return search_client.connect(settings, index, folder, self.passages, mode, local) if settings else local()

        return tools.searcher_of(self.cfg, index, folder, self.passages, search)

    def engine(self, index: str, temperature: float) -> RolloutEngine:
        """Return a rollout engine with its own slots that searches one index.

        temperature: of its sampled episodes; greedy ones have none. `evaluation.open_engine` gives that of evaluations.
        """
        settings = self.cfg.rollout
        rollout = RolloutConfig(
            slots=settings.slots,
            limits=EpisodeLimits(**self.cfg.episode.to_dict()),
            sampling=Sampling(temperature, settings.top_p, settings.top_k),
            steps=settings.steps,
            hits=self.cfg.search.hits,
            search_steps=settings.search_steps,
            search_batch=settings.search_batch,
            search_threads=settings.search_threads,
            prompt_rows=settings.prompt_rows,
            prompt_lengths=tuple(settings.prompt_lengths),
            extend_rows=tuple(settings.extend_rows),
            extend_tokens=tuple(settings.extend_tokens),
            context_lengths=tuple(settings.context_lengths),
            tools=tool_names(self.cfg.tools),
        )
        return RolloutEngine(rollout, self.policy.config.merged, self.tokenizer, self.searcher(index), self.mesh)

    def parameters(self, stage: str, step: int | None = None) -> Params:
        """Return the parameters of a stage's checkpoint in the TRAIN layout; adapters come with their base.

        Raises FileNotFoundError if there is no checkpoint, ValueError if it has other adapters or another base.
        """
        return self._restore(self.workdir / stage, step)

    def _restore(self, folder: Path, step: int | None) -> Params:
        if (folder / "config.json").exists():  # a folder without it was written by hand
            self._check_model(folder, str(folder), ("lora",))  # check_adapters below reports other adapters
        base = self.policy.split(self._base())[1] if self.policy.config.lora else {}
        checkpoints = Checkpointer(folder / "checkpoints", read_only=True)
        meta = checkpoints.meta(step)
        facts = adapter_facts.describe(self.policy.config, base, self.cfg.pretrained, self.cfg.seed)
        adapter_facts.check_adapters(meta, facts, folder)
        abstract = {"params": self.policy.abstract_trainable}
        state, _, _ = checkpoints.restore(meta["step"], abstract, partial=True)
        checkpoints.close()
        return self.policy.merge(state["params"], base)

    def initial(self) -> Params:
        """Return the parameters that training starts from, in the TRAIN layout.

        They are those of `cfg.start` or `cfg.pretrained`, or fresh ones. Adapters are fresh, or those of `cfg.start` or
        of the PEFT folder `cfg.adapters`. Raises ValueError that says what differs if `cfg.start` holds another model
        or tokenizer.
        """
        params = self._started() if self.cfg.start else self._base()
        if self.cfg.adapters:
            params = params | {"adapters": peft.load(self.cfg.adapters, self.policy.config, self.mesh)}
        return params

    def _base(self) -> Params:
        """Return published or fresh parameters, with fresh adapters if the config has adapters."""
        policy, mesh = self.policy, self.mesh
        if not self.cfg.pretrained:
            return policy.init_params(self.cfg.seed)
        read, params = load.load_pretrained(self.cfg.pretrained, mesh, **self._chosen)
        if self._added_tags:
            params = added_rows.extend_embeddings(read, params, self._added_tags, mesh, policy.config.vocab_size)[1]
        return policy.adapt(params, self.cfg.seed)

    def _check_model(self, folder: Path, called: str, left_out: tuple[str, ...] = ()) -> None:
        """Raise ValueError that says what differs if the model of a stage's folder is not the model of this run."""
        again = f"name the folder of a trained stage, such as {self.workdir / 'sft'}"
        saved = json_files.read_json_object(folder / "config.json", again, required=("model",))["model"]
        own = json.loads(json.dumps(dataclasses.asdict(self.policy.config)))
        saved = json.loads(json.dumps(dataclasses.asdict(model_config.ModelConfig(vocab_size=1)))) | saved
        free = (*families.RUN_FIELDS, *left_out)
        different = sorted(name for name in own if name not in free and saved[name] != own[name])
        if different:
            raise ValueError(
                f"{called} holds another model: "
                + ", ".join(f"{name} is {saved[name]} there and {own[name]} here" for name in different)
                + "; give the --config.model.* settings that it was trained with, or its config and argument"
            )

    def _started(self) -> Params:
        folder = Path(self.cfg.start)
        self._check_model(folder, f"start={folder}")
        said = {
            name: found
            for name, found in settings_history.changed(folder, self.cfg.to_dict()).items()
            if name.partition(".")[0] in ("search", "tools", "episode")  # a new stage may have another objective
        }
        if said and distributed.primary():
            settings_history.print_differences(f"start={folder}: this stage goes on", said)
        data = folder.parent / "data"
        if tokenizer_lib.load(data).fingerprint != self.tokenizer.fingerprint:
            raise ValueError(
                f"start={folder} was trained with the tokenizer of {data}, and {self.workdir / 'data'} has another: "
                "prepare with the same tokenizer_dir or over the same dump, or let this data be a link to that"
            )
        return self._restore(folder, None)

    def tasks(self, split: str, name: str, count: int) -> list[records.Task]:
        """Return the first `count` tasks of a held-out split, over its epochs in order; -1 returns all of them.

        name: of the task, as in a curriculum ('ramp_1', 'qa', ..), or 'qa_<benchmark>'.
        """
        found: list[records.Task] = []
        for path in pipeline.task_files(self.workdir / "data" / "tasks", split, name):
            for task in records.read(path, records.Task):
                if len(found) == count:
                    return found
                found.append(task.as_task(name))
        return found

    def fitting(self, found: list[records.Task]) -> tuple[list[records.Task], int]:
        """Return the tasks whose prompts leave room for an episode, and the number of the other tasks.

        Raises ValueError if there are others and `cfg.rollout.long_prompts` is 'refuse'.
        """
        return pipeline.fitting(found, self.cfg.episode.total_tokens, self.cfg.rollout.long_prompts == "refuse")

    def has_questions(self, split: str) -> bool:
        """Return True if W/data has questions for this split."""
        return (self.workdir / "data" / "tasks" / split / QUESTIONS).is_dir()

    def benchmarks(self, split: str) -> set[str]:
        """Return the names of the benchmarks whose questions W/data has."""
        folders = (self.workdir / "data" / "tasks" / split).glob(f"{QUESTIONS}_*")
        return {folder.name.removeprefix(f"{QUESTIONS}_") for folder in folders}

    def has_index(self, name: str) -> bool:
        return (self.workdir / "data" / "index" / name).is_dir()

    def validation(self, episodes: int) -> "Validation":
        """Return the greedy evaluation on the validation split during training. Its index holds no test passage."""
        return Validation(self, episodes)


def row_lengths(cfg: ConfigDict) -> set[int]:
    """Return the lengths of the rows that the stages of a config train on."""
    lengths = {cfg.sft.row_length} if "sft" in cfg else set()
    return lengths | (set(cfg.dapo.row_lengths) if "dapo" in cfg else set())


class Validation:
    """The validation during training. A call with (params, step) returns scores for each of `cfg.validation_tasks`.

    example: an episode of the last call as text.
    """

    example = ""

    def __init__(self, context: RunContext, episodes: int):
        self._engine = context.engine("validation", temperature=1.0)  # of no effect: the episodes are greedy
        self._tasks, self._left_out = {}, {}
        for name in context.cfg.validation_tasks:
            self._tasks[name], self._left_out[name] = context.fitting(context.tasks("validation", name, episodes))
            if not self._tasks[name]:
                raise ValueError(
                    f"no validation task of {name} has a prompt below episode.total_tokens="
                    f"{context.cfg.episode.total_tokens}; raise it, or take {name} out of validation_tasks"
                )
        self._decode_copy = context.policy.decode_copy()
        self._primary = distributed.primary()

    def __call__(self, params: Params, step: int) -> dict[str, float]:
        params = self._decode_copy(params)
        scores: dict[str, float] = {}
        for name, tasks in self._tasks.items():
            rows = runner.evaluate(self._engine, params, tasks)
            summary = runner.summarise(rows)
            told = ", ".join(f"{score} {summary[score]:.3f}" for score in ("recall", "format", "hit"))
            self.example = _one_of(rows, step)
            progress.print_message("validation", f"step {step}, {name}: {told}\n{self.example}", self._primary)
            scores |= {f"{name}/{score}": summary[score] for score in ("recall", "format", "searches", "hit")}
            if self._left_out[name]:
                scores[f"{name}/left_out"] = self._left_out[name]
        return scores


def _one_of(rows: list[runner.Row], step: int) -> str:
    """Return one episode as text; the step selects which."""
    row = rows[step % len(rows)]
    heading = f"{row.task_id}: {row.tokens} tokens, recall {row.recall:.2f}"
    turns = ((turn["text"], turn["error"], turn["observation"]) for turn in row.turns)
    return episode_text.episode_text(heading, row.text, row.golds, turns)
