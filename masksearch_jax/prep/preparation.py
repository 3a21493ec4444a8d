"""The stages of `prepare` in order, from a dump to everything that is not an index.

Enters: settings (configs/prepare.py) and an empty data directory. Leaves, in that directory: passages.array_record,
tokenizer.model (or tokenizer/, the files of a published one), annotated/ (what the SeqIO tasks read), tasks/ (what
training and evaluation read), augment.json, and for the toy its dumps, splits, questions and benchmarks. The content of
manifest.json and report.json is returned, not written: workflows/data_preparation.py writes those two last, after the
indices. Left out: the indices, which need no TensorFlow.

Passages of a newer dump follow those of the dump, as split 'newer'. Nothing trains on them or masks them. Only the
index `fresh` holds them, in place of the articles of the same titles.

Memory holds one article at a time, the word counts of the corpus, and a sample of passages. `Workers` may do the two
long stages instead, which are the passages with their spans and the export of the tasks. prep/beam does them by shards
of the dump, with the same functions on each shard.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import tensorflow as tf

from masksearch_jax import toywiki
from masksearch_jax.data import records
from masksearch_jax.evals import benchmarks, question_forms
from masksearch_jax.prep import filters, manifest, search_only
from masksearch_jax.prep.spans import annotated_passages, candidates
from masksearch_jax.prep.spans.dump_annotation import Bar, Choice, Clock, annotate
from masksearch_jax.prep.splits import SPLITS, Splits
from masksearch_jax.prep.tasks import exchangeable_tokens, registry, task_export, tool_warmup
from masksearch_jax.prep.tasks import question_source as questions
from masksearch_jax.prep.wiki import dump_files, dump_reader, languages
from masksearch_jax.runtime.types import ConfigSection, JsonObject
from masksearch_jax.text import added_tags, chat_template, instructions, published_tokenizer, tokenizer
from masksearch_jax.text.tokenizer_protocol import Tokenizer

TOY = "toy"
AUGMENT = "augment.json"
# Vocabulary sizes where tokenizer.vocab_size is 0. The toy's holds each word of its names as one token, and its
# wording.
TOY_VOCABULARY = 1362
DUMP_VOCABULARY = 4096


class Workers(Protocol):
    """Interface of what does the two long stages instead of this process. The files may be shards (records.files)."""

    def language(self, paths: list[str]) -> str:
        """Return the language of a dump that this process cannot open, as dump_files.site does for local ones."""
        ...

    def annotate(
        self, paths: list[str], splits: Splits, data_dir: Path, stats: dump_reader.DumpStats, bar: Bar, language: str
    ) -> tuple[int, annotated_passages.Annotation]:
        """Do the same as dump_annotation.annotate."""
        ...

    def export(self, data_dir: Path, settings: registry.TaskSettings, bar: Bar) -> dict[str, dict[str, list[int]]]:
        """Do the same as task_export.export."""
        ...


def validate_preparation(cfg: ConfigSection) -> None:
    """Raise ValueError or FileNotFoundError for settings that cannot work, before anything is prepared."""
    language = "en"
    if cfg.dump != TOY:
        paths = dump_files.files(cfg.dump)
        local = [path for path in paths if not dump_files.is_remote(path)]
        if len(local) < len(paths) and not cfg.beam.runner:
            raise FileNotFoundError(
                f"dump={cfg.dump!r}: no such file here; copy it to this machine, or read it with beam.runner"
            )
        language = dump_files.site(local).language
        dump_files.check_corpora(local, cfg)
    _check_language(cfg, language)
    if cfg.questions:
        if not Path(cfg.questions).is_file():
            raise FileNotFoundError(f"questions={cfg.questions!r}: no such file")
        question_forms.read_questions(cfg.questions)  # fail on a bad file now, not after passages, spans and tokenizer
    if cfg.newer_dump:
        later = dump_files.files(cfg.newer_dump, "newer_dump")
        dump_files.check_corpora(later, cfg)
        newer = dump_files.site(later).language
        if newer != language:
            raise ValueError(
                f"newer_dump={cfg.newer_dump!r} is in {languages.name_of(newer)}, and the dump in "
                f"{languages.name_of(language)}; name a later export of the same wiki"
            )
    if cfg.search_only:
        searched = dump_files.files(cfg.search_only, "search_only")
        if remote := next(filter(dump_files.is_remote, searched), None):
            raise FileNotFoundError(f"search_only={remote!r}: no such file here; copy it to this machine")
        dump_files.site(searched)
        dump_files.check_corpora(searched, cfg)
    one_process = cfg.newer_dump or cfg.search_only or cfg.spans != "rules"
    if cfg.beam.runner and (one_process or (cfg.dump == TOY and cfg.toy_benchmarks)):
        raise ValueError(
            f"beam.runner={cfg.beam.runner!r}: a newer dump (of the toy too: set toy_benchmarks=0), search-only "
            "articles and a model's spans are for one process; leave beam.runner empty"
        )
    for name, file in cfg.benchmarks.items():
        if file:
            benchmarks.read(name, file)  # fail on a bad file now, not after the passages
    Splits(cfg.splits, cfg.shares, cfg.seed)
    if cfg.passages.words < 1 or not 0 <= cfg.passages.minimum <= cfg.passages.words:
        raise ValueError(f"passages={cfg.passages.to_dict()}: words >= 1 and 0 <= minimum <= words are needed")
    least = tokenizer.fixed_tokens(cfg.tokenizer.digit_pairs)
    size = cfg.tokenizer.vocab_size
    if size and size <= least:
        raise ValueError(f"tokenizer.vocab_size={size}: more than {least} are needed, or 0 to leave the choice")
    task_settings(cfg, {}, {})
    filters.validate_filters(cfg.filters)
    if cfg.tokenizer.added_tags and not cfg.tokenizer_dir:
        raise ValueError(
            "tokenizer.added_tags=True is for a published tokenizer (tokenizer_dir); in one that is trained here each "
            "tag is a token anyway"
        )
    variables = chat_template.read_variables(cfg.tasks.chat_variables)
    if cfg.tokenizer_dir:
        opened = published_tokenizer.PublishedTokenizer(cfg.tokenizer_dir, cfg.tasks.chat)
        chat_template.open_chat_template(opened, cfg.tasks.chat, _system(cfg), variables)
    elif cfg.tasks.chat or cfg.tasks.system or variables:
        raise ValueError(
            f"tasks.chat={cfg.tasks.chat!r}, tasks.system={cfg.tasks.system[:60]!r}, tasks.chat_variables={variables}: "
            "a chat template needs the tokenizer of its model; name its folder in tokenizer_dir"
        )


def _system(cfg: ConfigSection) -> str:
    return instructions.text_of("system", cfg.tasks.system)


def _check_language(cfg: ConfigSection, language: str) -> None:
    if cfg.tool_warmup and languages.without(language, candidates.KINDS):
        raise ValueError(
            f"tool_warmup=True: its requests are written in English, and dump={cfg.dump!r} is in "
            f"{languages.name_of(language)}; set tool_warmup=False"
        )


def run(
    cfg: ConfigSection,
    data_dir: Path,
    bar: Bar,
    choose: Choice = lambda rules: rules,
    ahead: Callable[[Iterable[annotated_passages.Linked]], Iterable[annotated_passages.Linked]] = lambda found: found,
    workers: Workers | None = None,
) -> tuple[JsonObject, JsonObject]:
    """Prepare `data_dir`; return (content of the manifest, content of the report).

    choose: takes the rule-based span finder and returns the finder to use. ahead: the passages pass through it on their
    way to the finder; it keeps their order. workers: do the two long stages; None does all of it in this process.

    Raises dump_reader.DumpError for a damaged dump, and ValueError for settings that cannot work or a dump that leaves
    nothing to train on.
    """
    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")  # string work; TensorFlow would reserve all of the memory
    clock = Clock()
    data_dir.mkdir(parents=True, exist_ok=True)

    # ---- the dump that is given, or the toy encyclopedia ----
    splits_file, question_source = cfg.splits, cfg.questions
    paths = [] if cfg.dump == TOY else dump_files.files(cfg.dump)
    newer, benchmark_files = cfg.newer_dump, cfg.benchmarks.to_dict()
    if cfg.dump == TOY:
        with clock.stage("toy"):
            world = {"entities": cfg.entities, "seed": cfg.seed, "split_shares": cfg.shares.to_dict()}
            toy = toywiki.generate(data_dir, **world, corroborating=cfg.corroborating_articles)
            if cfg.toy_benchmarks:
                made = toywiki.generate_benchmarks(
                    data_dir, cfg.toy_benchmarks, **world, corroborating=cfg.corroborating_articles
                )
                benchmark_files = {name: file or made.files.get(name, "") for name, file in benchmark_files.items()}
                newer = newer or (made.newer_dump if "freshqa" in made.files else "")
        paths, splits_file = [str(toy.dump)], splits_file or toy.splits
        question_source = question_source or toy.questions
    splits = Splits(splits_file, cfg.shares, cfg.seed)
    named = ", ".join(paths) if len(paths) < 4 else f"{paths[0]} and {len(paths) - 1} more files"
    is_remote = any(map(dump_files.is_remote, paths))
    language = workers.language(paths) if workers and is_remote else dump_files.site(paths).language
    _check_language(cfg, language)
    off = languages.without(language, candidates.KINDS)
    if off:
        print(
            f"{named}: in {languages.name_of(language)}. Masked are links and terms of categories and infoboxes; "
            f"the rules for {', '.join(off)} are for English alone",
            flush=True,
        )

    # ---- passages and their candidate spans, which the SeqIO tasks mask ----
    stats = dump_reader.DumpStats()
    if workers is None:
        total, annotation = annotate(cfg, paths, splits, data_dir, stats, bar, clock, newer, choose, ahead, language)
    else:
        with clock.stage("passages"):
            total, annotation = workers.annotate(paths, splits, data_dir, stats, bar, language)
    if not total:
        raise ValueError(f"{named}: {stats.articles} articles gave no passage; is it a dump of articles?")
    if not annotation.kept["train"]:
        raise ValueError(f"{named}: no training passage has a span to mask; raise shares.train or check the splits")

    # ---- tokenizer, questions, settings of the tasks ----
    with clock.stage("tokenizer"):
        opened = _tokenizer(cfg, data_dir)
    with clock.stage("questions"):
        benchmarked, tested = questions.annotate_benchmarks(benchmark_files, data_dir)
        taught: dict[str, Counter[str]] = {}
        if question_source:
            taught = questions.annotate(question_source, splits, data_dir, tested, search_only.titles(cfg))
        quoted = (
            tool_warmup.annotate(annotated_passages.old(data_dir), cfg.seed, data_dir) if cfg.tool_warmup else Counter()
        )
    asked = {split: sum(counts.values()) for split, counts in taught.items()}
    settings = task_settings(cfg, annotation.kept, asked, benchmarked, quoted)
    settings.save(data_dir / "annotated")

    # ---- SeqIO tasks to ArrayRecord ----
    with clock.stage("tasks"):
        if workers is None:
            registry.register(data_dir)
            counts = task_export.export(data_dir, settings, bar)
        else:
            counts = workers.export(data_dir, settings, bar)

    # ---- the tokens that training may permute, and the report ----
    with clock.stage("augment"):
        # The tokens of a published model have a meaning from its training, so none may stand for another.
        groups = [] if cfg.tokenizer_dir else exchangeable_tokens.groups(annotation.named, opened, **cfg.augment)
        (data_dir / AUGMENT).write_text(json.dumps({"groups": groups}))
    content = {
        "articles": stats.articles,
        "passages": total,
        "examples": counts,
        "benchmarks": {name: _source(file, data_dir) for name, file in benchmark_files.items() if file},
        "newer": _several(newer, data_dir, "newer_dump") if newer else None,
        "search_only": _several(cfg.search_only, data_dir, "search_only") if cfg.search_only else None,
        "seed": cfg.seed,
        "source": {
            "path": Path(paths[0]).name if cfg.dump == TOY else cfg.dump,
            "bytes": manifest.size(paths) or stats.file_bytes,
            # '' for a dump in a bucket: reading all of it here would take hours.
            "sha256": "" if manifest.size(paths) is None else manifest.sha256(*paths),
        },
        "tokenizer": {"sha256": opened.fingerprint, "vocab_size": opened.vocab_size},
    }
    report = _report(content, stats, annotation, opened, data_dir, groups, clock.seconds)
    if taught:
        report["questions"] = {split: dict(counts) for split, counts in taught.items()}
    if off:
        report |= {"language": languages.name_of(language), "spans_of_english_alone": off}
    return content, report


def _source(file: Path | str, data_dir: Path) -> dict[str, str]:
    """Return the manifest's entry for a source file. One inside `data_dir`, which moves, is named relative to it."""
    path = Path(file)
    name = path.relative_to(data_dir) if path.is_relative_to(data_dir) else path
    return {"path": str(name), "sha256": manifest.sha256(path)}


def _several(setting: Path | str, data_dir: Path, name: str) -> dict[str, str]:
    """Return the same as `_source` for a setting of one file or several. name: of the setting, for error messages."""
    paths = dump_files.files(str(setting), name)
    return _source(paths[0], data_dir) if len(paths) == 1 else {"path": str(setting), "sha256": manifest.sha256(*paths)}


def _tokenizer(cfg: ConfigSection, data_dir: Path) -> Tokenizer:
    """Copy a published tokenizer, or train one on the texts and titles of training passages alone."""
    if cfg.tokenizer_dir:
        opened: Tokenizer = published_tokenizer.copy(cfg.tokenizer_dir, data_dir / tokenizer.PUBLISHED, cfg.tasks.chat)
        if cfg.tokenizer.added_tags and added_tags.add_tags(opened.path):
            opened = tokenizer.load(data_dir)
        return opened
    settings = cfg.tokenizer

    def texts() -> Iterator[str]:
        for passage in records.read(data_dir / annotated_passages.PASSAGES, records.Passage):
            if passage.split == "train":
                # A search shows each passage with its title in front.
                yield f"{passage.title}: {passage.text}"

    size = settings.vocab_size or (TOY_VOCABULARY if cfg.dump == TOY else DUMP_VOCABULARY)
    return tokenizer.train(
        texts(),
        data_dir / tokenizer.TRAINED,
        size,
        cfg.seed,
        settings.max_texts,
        settings.character_coverage,
        settings.digit_pairs,
    )


def task_settings(
    cfg: ConfigSection,
    kept: Mapping[str, int],
    asked: Mapping[str, int],
    benchmarked: Mapping[str, int] | None = None,
    quoted: Mapping[str, int] | None = None,
) -> registry.TaskSettings:
    """Return the settings of the tasks.

    kept, asked, quoted: the number of passages, questions and tool_warmup tasks by split. benchmarked: the number of
    questions by benchmark.
    """
    epochs = {split: cfg.tasks.epochs if split == "train" else cfg.tasks.eval_epochs for split in SPLITS}
    return registry.TaskSettings(
        seed=cfg.seed,
        epochs=epochs,
        answer_form=cfg.tasks.answer_form,
        instruction=instructions.text_of("instruction", cfg.tasks.instruction),
        question_instruction=instructions.text_of("question_instruction", cfg.tasks.question_instruction),
        instruction_place=cfg.tasks.instruction_place,
        chat=cfg.tasks.chat,
        system=_system(cfg),
        chat_variables=chat_template.read_variables(cfg.tasks.chat_variables),
        # 1 is the default, and each weight that is given costs one comparison per span.
        span_weights={kind: weight for kind, weight in cfg.tasks.span_weights.items() if weight != 1.0},
        passages={split: kept.get(split, 0) for split in SPLITS},
        questions={split: asked.get(split, 0) for split in SPLITS},
        benchmarks=dict(benchmarked or {}),
        tool_warmup={split: n for split, n in (quoted or {}).items() if n},
        titles=cfg.tasks.titles,
    )


def _report(
    content: JsonObject,
    stats: dump_reader.DumpStats,
    annotation: annotated_passages.Annotation,
    opened: Tokenizer,
    data_dir: Path,
    groups: Sequence[exchangeable_tokens.Group],
    seconds: dict[str, float],
) -> JsonObject:
    """Return the numbers of a preparation that a person wants to see."""
    by_split: Counter[str] = Counter()
    sample: list[str] = []
    for passage in records.read(data_dir / annotated_passages.PASSAGES, records.Passage):
        by_split[passage.split] += 1
        if passage.split == "train" and len(sample) < annotated_passages.SAMPLE:
            sample.append(" " + passage.text)
    lengths = sorted(len(ids) for ids in opened.encode_batch(sample))
    megabytes = stats.wikitext_bytes / 1e6
    return {
        "pages": stats.pages,
        "redirects": stats.redirects,
        "non_articles": stats.non_articles,
        "damaged": stats.bad,
        "articles": content["articles"],
        "articles_superseded": stats.superseded,
        "passages": dict(by_split),
        "passages_with_spans": dict(annotation.kept),
        "passages_with_our_tags": annotation.tagged,
        "passages_dropped": dict(sorted(annotation.dropped.items())),
        "spans": dict(annotation.kinds),
        "examples": content["examples"],
        "tokens_per_passage": {
            "mean": round(sum(lengths) / len(lengths), 1),
            "p95": lengths[int(0.95 * (len(lengths) - 1))],
            "max": lengths[-1],
        },
        "vocabulary": opened.vocab_size,
        "exchangeable_tokens": [len(group) for group in groups],
        "wikitext_mb": round(megabytes, 3),
        "wikitext_mb_per_second": round(megabytes / max(seconds["passages"], 1e-9), 2),
        "seconds": seconds,
    }
