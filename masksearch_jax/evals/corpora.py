"""Read corpora in the forms that people have: articles as (title, text), in the order of the file.

Enters: a file. `.jsonl`, `.jsonl.gz` and `.parquet` hold an article or a part of one in each row, `.json` and
`.json.gz` an object {title: text} or a list of objects, `.txt` and `.md` one article whose title is the file's name.
A row is {"title", "text"}, or Search-R1's {"contents": "\\"Title\\"\\ntext"}, or has its title and text in the fields
that `Fields` names. Leaves: titles and texts as they are. JSON lines and parquet are streamed in constant memory. Rows
that follow each other with one title are parts of one article, since corpora for search engines come cut into passages
that end in the middle of a sentence.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from masksearch_jax.evals import data_rows
from masksearch_jax.evals import question_files as files
from masksearch_jax.runtime.types import Json, JsonObject

TEXTS = (".txt", ".md")
ROWS = (*data_rows.LINES, *data_rows.PARQUET)
ENDINGS = (*data_rows.JSON, *ROWS, *TEXTS)

# Characters of an article of several rows; a longer one becomes several articles of the same title.
_LARGEST_ARTICLE = 1 << 22
_FORMS = (
    'a corpus is {"title": "text"}, {"title": ["sentence", ..]} or [{"title": .., "text": ..}, ..] in a .json file, or '
    'has {"title": .., "text": ..} or {"contents": "Title\\ntext"} in each row of a .jsonl or .parquet file'
)


@dataclasses.dataclass(frozen=True)
class Fields:
    """Which fields of a row hold the title and the text; '' for `title`, and for `text` or `contents`."""

    title: str = ""
    text: str = ""


def is_corpus(path: Path | str) -> bool:
    """Return True if the name of a file is that of a corpus."""
    return str(path).lower().endswith(ENDINGS)


def read_corpus(
    path: Path | str,
    fields: Fields = Fields(),  # noqa: B008 (frozen)
    bad: Callable[[ValueError], None] = data_rows.raise_error,
    read_bytes: Callable[[int], None] = data_rows.nothing,
) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each article of a corpus, in file order.

    bad: called with the error of a row that is no article; by default it raises. read_bytes: called now and then with
    the number of bytes of the file that were read so far. `.json` files are held in memory; in a list of theirs,
    entries of one title stay articles of their own.

    Raises FileNotFoundError or ValueError that names file, entry and field for any other form.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(TEXTS):
        text = _whole_text(path)
        read_bytes(path.stat().st_size)
        return iter([(_title_of(path), text)])
    if name.endswith(ROWS) or (path.is_file() and data_rows.holds_lines(path)):
        rows = data_rows.read_rows(path, _FORMS, bad, read_bytes)
        return _joined(found for row in rows if (found := _article(row, fields, bad)))
    return (found for row in _json_rows(path, bad, read_bytes) if (found := _article(row, fields, bad)))


def _joined(parts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Join the texts of neighbours with one title."""
    title, texts, size = "", [""], 0
    for found, text in parts:
        if size and (found != title or size + len(text) > _LARGEST_ARTICLE):
            yield title, " ".join(texts)
            texts, size = [], 0
        if not size:
            title, texts = found, []
        texts.append(text)
        size += len(text)
    if size:
        yield title, " ".join(texts)


def _json_rows(
    path: Path, bad: Callable[[ValueError], None], read_bytes: Callable[[int], None]
) -> Iterator[data_rows.Row]:
    entries = files.read_json(path, _FORMS, list | dict)
    if isinstance(entries, dict):
        entries = [{"title": title, "text": text} for title, text in entries.items()]
    for index, entry in enumerate(entries):
        where = f"{path}, entry {index}"
        if isinstance(entry, dict):
            yield data_rows.Row(where, entry)
        else:
            bad(ValueError(f"{where}: expected an object, got {type(entry).__name__}; {_FORMS}"))
    read_bytes(path.stat().st_size)


def _article(row: data_rows.Row, fields: Fields, bad: Callable[[ValueError], None]) -> tuple[str, str] | None:
    """Return (title, text) of a row, or None for one that `bad` has accepted."""
    try:
        return _title_and_text(row.entry, fields, row.where)
    except ValueError as error:
        bad(error)
        return None


def _title_and_text(entry: JsonObject, fields: Fields, where: str) -> tuple[str, str]:
    if not fields.text and "text" not in entry and isinstance(entry.get("contents"), str):
        return _contents(entry, fields, where)
    title, text = fields.title or "title", fields.text or "text"
    for name, setting in ((title, "title"), (text, "text")):
        if name not in entry:
            raise ValueError(
                f"{where}: there is no field {name!r}; its fields are {', '.join(map(repr, sorted(entry)[:20]))}. Name "
                f"the one that holds the {setting} with --config.corpus.{setting}=FIELD of prepare; {_FORMS}"
            )
    return files.text(entry, title, where), files.text({text: _sentences(entry[text])}, text, where)


def _sentences(text: Json) -> Json:
    """Return a list of sentences as one text with a space between them; any other value as it is."""
    if isinstance(text, list) and text and all(isinstance(sentence, str) for sentence in text):
        return " ".join(filter(None, (sentence.strip() for sentence in text)))
    return text


def _contents(entry: JsonObject, fields: Fields, where: str) -> tuple[str, str]:
    """Return (title, text) of a row of Search-R1's corpora, whose first line is the title, mostly in quotes."""
    contents = files.text(entry, "contents", where)
    first, end, rest = contents.partition("\n")
    line = _unquoted(first.strip())
    if isinstance(entry.get(fields.title or "title"), str):
        title = files.text(entry, fields.title or "title", where)
        text = rest if end and line == title.strip() else contents
    elif end and line:
        title, text = line, rest
    else:
        raise ValueError(
            f"{where}: field 'contents' must be a title, a line end and the text, got {files.shown(contents)}"
        )
    return title, files.text({"contents": text}, "contents", where)


def _unquoted(title: str) -> str:
    """Return a title without the quotation marks of a CSV cell, in which its own marks are doubled."""
    return title[1:-1].replace('""', '"').strip() if len(title) > 1 and title[0] == title[-1] == '"' else title


def _title_of(path: Path) -> str:
    return path.name[: -len(path.suffix)] or path.name


def _whole_text(path: Path) -> str:
    text = files.read_text(path, "a .txt or .md file of a corpus is one article as UTF-8 text")
    return files.text({"text": text}, "text", str(path))
