"""The setting `dump`: one file, or several that are read one after the other as one dump.

Enters: a path, several paths with commas between, a pattern ('enwiki-*-pages-articles*.xml-p*.bz2'), or a folder of
text files or of a corpus's parts. Leaves: the files in order, a check that they can be read together, and their
articles. Left out: what is in a file (dump_reader.py, evals/corpora.py).
"""

import ast
import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from masksearch_jax.evals import corpora
from masksearch_jax.prep.wiki import dump_reader, languages, wikitext
from masksearch_jax.prep.wiki.site_info import ENGLISH, Site
from masksearch_jax.runtime.types import ConfigSection
from masksearch_jax.text.normal_forms import normal_form

_PATTERN = set("*?[")
_CHECKED = 32  # files of a corpus whose form is checked before the work begins
_BAD_BEFORE = 100  # bad rows that may stand before the first article


def is_remote(path: Path | str) -> bool:
    return "://" in str(path)


def files(setting: str | Path | Sequence[str], name: str = "dump") -> list[str]:
    """Return the files that a setting names; those of a pattern or a folder are sorted by name.

    Raises FileNotFoundError for a file that does not exist or a pattern without files, and ValueError for a file that
    is named twice, a pattern in a bucket, a folder without a corpus or with several kinds, or a corpus together with an
    export.
    """
    found: list[str] = []
    for entry in _entries(str(setting) if isinstance(setting, Path) else setting):
        if is_remote(entry):
            if _PATTERN & set(entry):
                raise ValueError(f"{name}={entry!r}: patterns are for local files; name the files, with commas between")
            found.append(entry)
        elif entry and Path(entry).is_dir():
            found += _files_of_folder(Path(entry), name)
        elif Path(entry).is_file() or not _PATTERN & set(entry):
            found.append(entry)
        else:
            found += sorted(path for path in glob.glob(entry, recursive=True) if Path(path).is_file()) or [entry]
    for path in found:
        if not is_remote(path) and not Path(path).is_file():
            what = f"name a MediaWiki export, a corpus ({', '.join(corpora.ENDINGS)}, or a folder of such), or 'toy'"
            if name == "newer_dump":
                what = "name a later export of the same wiki"
            elif name != "dump":
                what = f"name a MediaWiki export or a corpus ({', '.join(corpora.ENDINGS)}, or a folder of such)"
            raise FileNotFoundError(f"{name}={path!r}: no such file; {what}")
    if repeated := next((path for path, count in Counter(found).items() if count > 1), None):
        raise ValueError(f"{name}={setting!r}: {repeated} stands twice")
    if len({corpora.is_corpus(path) for path in found}) > 1:
        raise ValueError(f"{name}={setting!r}: corpora and exports number their articles each in their own way")
    return found


def _files_of_folder(folder: Path, name: str) -> list[str]:
    """Return the files of a corpus in a folder and its subfolders, all of one kind; .md files may lie beside others."""
    kinds = {"parquet": (".parquet",), "JSON lines": (".jsonl", ".jsonl.gz"), "texts": (".txt",), "notes": (".md",)}
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {kind: [str(p) for p in every if p.name.lower().endswith(ends)] for kind, ends in kinds.items()}
    held = {kind: paths for kind, paths in found.items() if paths}
    if len(held) > 1:
        held.pop("notes", None)  # such as the README.md of a download
    if len(held) != 1:
        what = "; ".join(f"{len(paths)} files of {kind}" for kind, paths in held.items()) or f"{len(every)} other files"
        raise ValueError(
            f"{name}={str(folder)!r}: the folder holds {what}; it has to hold files of one kind: .parquet, .jsonl, "
            f".jsonl.gz, .txt or .md. Name the files with a pattern: --config.{name}='{folder}/*.jsonl'"
        )
    return next(iter(held.values()))


def _entries(setting: str | Sequence[str]) -> list[str]:
    if isinstance(setting, str):
        if setting.startswith(("(", "[")):  # a tuple on a command line
            try:
                setting = ast.literal_eval(setting)
            except (SyntaxError, ValueError):
                pass
        if isinstance(setting, str):
            setting = [setting] if Path(setting).is_file() else setting.split(",")
    return [entry.strip() for entry in map(str, setting) if entry.strip()] or [""]


def site(paths: Sequence[Path | str]) -> Site:
    """Return the wiki of local exports, or the English one for corpora, after reading the head of each file.

    Raises DumpError for a file that is no export and for exports of two wikis, and ValueError for a language without
    sentence ends.
    """
    if not paths or corpora.is_corpus(paths[0]):
        return ENGLISH
    seen, found = dump_reader.Seen(), ENGLISH
    for place, path in enumerate(paths):
        one = seen.site(Path(path), dump_reader.read_head(path))
        found = found if place else one
    languages.check_language(found.language, str(paths[0]))
    return found


def check_corpora(paths: Sequence[Path | str], cfg: ConfigSection) -> None:
    """Read the first article of the first corpora; raise ValueError that says what is wrong with its form.

    With `cfg.skip_bad` some rows before it may be bad.
    """
    found: list[ValueError] = []

    def bad(error: ValueError) -> None:
        found.append(error)
        if len(found) > _BAD_BEFORE * cfg.skip_bad:
            raise error

    for path in paths[:_CHECKED]:
        if corpora.is_corpus(path):
            next(corpora.read_corpus(path, fields_of(cfg), bad), None)


def read_articles(
    paths: Sequence[Path | str],
    skip_bad: bool,
    stats: dump_reader.DumpStats,
    fields: corpora.Fields = corpora.Fields(),  # noqa: B008 (frozen)
) -> Iterator[tuple[int, str, wikitext.Document]]:
    """Yield (id, title, cleaned text) of MediaWiki exports or of corpora; count them in `stats`.

    Corpora have neither links nor categories. Their articles get ids of their own, so two articles of one title stay
    two. fields: of a corpus's rows. Raises as dump_reader.articles and corpora.read_corpus do; with `skip_bad`, rows
    that are no articles are counted in `stats.bad` instead.
    """
    seen = dump_reader.Seen()
    number = 0
    for path in paths:
        if not corpora.is_corpus(path):
            for article in dump_reader.articles(path, skip_bad, stats, seen):
                yield article.id, article.title, wikitext.clean(article.wikitext, article.title, article.site)
            continue
        for title, text in _corpus(path, skip_bad, stats, fields):
            stats.pages, stats.articles = stats.pages + 1, stats.articles + 1
            stats.wikitext_bytes += len(text.encode())
            # As an export's text (wikitext.clean): one spelling of an accent for spans, passages and index alike.
            title, text = normal_form("NFC", title), normal_form("NFC", text)
            yield number, title, wikitext.Document([wikitext.Paragraph(" ".join(text.split()), [])], [], [])
            number += 1


def _corpus(
    path: Path | str, skip_bad: bool, stats: dump_reader.DumpStats, fields: corpora.Fields
) -> Iterator[tuple[str, str]]:
    """Yield the articles of one corpus; keep count of its bytes, and with `skip_bad` of its bad rows."""
    before = stats.file_bytes  # of the files read before

    def read_bytes(count: int) -> None:
        stats.file_bytes = before + count

    def bad(error: ValueError) -> None:
        if not skip_bad:
            raise ValueError(f"{error}. Mend the row, or skip such rows with --config.skip_bad=True") from error
        stats.bad += 1

    return corpora.read_corpus(path, fields, bad, read_bytes)


def fields_of(cfg: ConfigSection) -> corpora.Fields:
    """Return the fields that the section `corpus` of the settings names."""
    return corpora.Fields(cfg.corpus.title, cfg.corpus.text)
