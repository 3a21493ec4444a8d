"""Articles that are only searched: no mask, no demonstration and no token of a tokenizer comes from them.

The articles that a benchmark's questions rest on are of this kind: a policy has to find them, and must not have been
trained on them. Enters: the setting `search_only` (files like those of `dump`). Leaves: their passages, as split
'search_only', which only the indices `all` and `fresh` hold, and the titles that the dump's own articles must not have.
"""

from collections.abc import Callable, Iterable, Iterator

from masksearch_jax.data import records
from masksearch_jax.prep import filters
from masksearch_jax.prep.wiki import dump_files, dump_reader, passage_cutting, wikitext
from masksearch_jax.runtime.types import ConfigSection

SPLIT = "search_only"
Article = tuple[int, str, wikitext.Document]


def titles(cfg: ConfigSection) -> frozenset[str]:
    """Return the titles of the search-only articles, as `filters.title_key` writes them; none without the setting.

    Raises dump_reader.DumpError or ValueError for a damaged file.
    """
    return frozenset(filters.title_key(title) for _, title, _ in _articles(cfg))


def without(
    articles: Iterable[Article], searched: frozenset[str], left_out: Callable[[str], None]
) -> Iterator[Article]:
    """Yield the articles whose titles are not in `searched`; call `left_out` with the title of each other article."""
    for article in articles:
        if searched and filters.title_key(article[1]) in searched:
            left_out(article[1])
        else:
            yield article


def cut(cfg: ConfigSection, first_article: Callable[[], int]) -> Iterator[records.Passage]:
    """Yield the search-only passages, without numbers of their own (`annotated_passages.dense` numbers them).

    first_article: returns the id of the first article; called once, when the first passage is requested. Corpora number
    their articles from 0, and an id must not name an article of the dump as well.
    """
    start = None
    for number, (_, title, document) in enumerate(_articles(cfg)):
        start = first_article() if start is None else start
        for passage in passage_cutting.cut(document, title, cfg.passages.words, cfg.passages.minimum):
            yield records.Passage(-1, start + number, title, passage.text, SPLIT)


def _articles(cfg: ConfigSection) -> Iterator[Article]:
    if not cfg.search_only:
        return iter(())
    paths = dump_files.files(cfg.search_only, "search_only")
    return dump_files.read_articles(paths, cfg.skip_bad, dump_reader.DumpStats(), dump_files.fields_of(cfg))
