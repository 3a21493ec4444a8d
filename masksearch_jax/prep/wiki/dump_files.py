"""The setting `dump`: one file, or several that are read one after the other as one dump.

Enters: a path, several paths with commas between, or a pattern ('enwiki-*-pages-articles*.xml-p*.bz2'). Leaves: the
files in order, a check that they can be read together, and their articles. Left out: what is in a file (dump_reader.py,
and the corpora of evals/benchmarks.py).
"""

import ast
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from masksearch_jax.evals import benchmarks
from masksearch_jax.prep.wiki import dump_reader, languages, wikitext
from masksearch_jax.prep.wiki.site_info import ENGLISH, Site
from masksearch_jax.text.normal_forms import normal_form

_PATTERN = set("*?[")


def is_remote(path: Path | str) -> bool:
    return "://" in str(path)


def is_corpus(path: Path | str) -> bool:
    return str(path).endswith(benchmarks.CORPUS_ENDINGS)


def files(setting: str | Path | Sequence[str], name: str = "dump") -> list[str]:
    """Return the files that a setting names; those of a pattern are sorted by name.

    Raises FileNotFoundError for a file that does not exist or a pattern without files, and ValueError for a file that
    is named twice, a pattern in a bucket, or a corpus together with an export.
    """
    found: list[str] = []
    for entry in _entries(str(setting) if isinstance(setting, Path) else setting):
        if is_remote(entry):
            if _PATTERN & set(entry):
                raise ValueError(f"{name}={entry!r}: patterns are for local files; name the files, with commas between")
            found.append(entry)
        elif Path(entry).is_file() or not _PATTERN & set(entry):
            found.append(entry)
        else:
            found += sorted(path for path in glob.glob(entry, recursive=True) if Path(path).is_file()) or [entry]
    for path in found:
        if not is_remote(path) and not Path(path).is_file():
            what = "name a MediaWiki export, a corpus (.json, .json.gz), or 'toy'"
            if name == "newer_dump":
                what = "name a later export of the same wiki"
            elif name != "dump":
                what = "name a MediaWiki export or a corpus (.json, .json.gz)"
            raise FileNotFoundError(f"{name}={path!r}: no such file; {what}")
    if repeated := next((path for path in found if found.count(path) > 1), None):
        raise ValueError(f"{name}={setting!r}: {repeated} stands twice")
    if len({is_corpus(path) for path in found}) > 1:
        raise ValueError(f"{name}={setting!r}: corpora and exports number their articles each in their own way")
    return found


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
    if not paths or is_corpus(paths[0]):
        return ENGLISH
    seen, found = dump_reader.Seen(), ENGLISH
    for place, path in enumerate(paths):
        one = seen.site(Path(path), dump_reader.read_head(path))
        found = found if place else one
    languages.check_language(found.language, str(paths[0]))
    return found


def read_articles(
    paths: Sequence[Path | str], skip_bad: bool, stats: dump_reader.DumpStats
) -> Iterator[tuple[int, str, wikitext.Document]]:
    """Yield (id, title, cleaned text) of MediaWiki exports or of benchmarks' corpora; count them in `stats`.

    Corpora have neither links nor categories. Their entries get ids of their own, so two entries of one title stay two
    articles. Raises as dump_reader.articles and benchmarks.read_corpus do.
    """
    seen = dump_reader.Seen()
    number = 0
    for path in paths:
        if not is_corpus(path):
            for article in dump_reader.articles(path, skip_bad, stats, seen):
                yield article.id, article.title, wikitext.clean(article.wikitext, article.title, article.site)
            continue
        for title, text in benchmarks.read_corpus(path):
            stats.pages, stats.articles = stats.pages + 1, stats.articles + 1
            stats.wikitext_bytes += len(text.encode())
            # As an export's text (wikitext.clean): one spelling of an accent for spans, passages and index alike.
            title, text = normal_form("NFC", title), normal_form("NFC", text)
            yield number, title, wikitext.Document([wikitext.Paragraph(" ".join(text.split()), [])], [], [])
            number += 1
