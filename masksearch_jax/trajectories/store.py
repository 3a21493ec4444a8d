"""A SQLite file of episodes: written by one process, read by any number while it is written.

Enters: episodes, and later the values of the update that trained on them. Leaves: rows. The file is bounded by bytes;
the oldest groups go first. Full-text search needs SQLite with FTS5, which Python's own builds have; without it a search
looks at the task's beginning, its id and the answer.
"""

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from masksearch_jax.trajectories.episode import BODY, Episode, read_body, search_text

FILE = "episodes.sqlite"
FOLDER = "trajectories"  # of a stage, such as W/dapo/trajectories
# A file of another version is refused: nothing converts it.
_VERSION = 1
# Beside its own name, the list of episodes shows and sorts by these columns. `id` numbers the rows of the file.
COLUMNS = tuple(field.name for field in dataclasses.fields(Episode) if field.name not in BODY)
# The index of_list holds all that a list filters and sorts by: it is read in place of the table, which is much larger.
_TABLES = """
CREATE TABLE episodes (
  id INTEGER PRIMARY KEY, source TEXT NOT NULL, step INTEGER NOT NULL, version INTEGER, "group" INTEGER NOT NULL,
  sample INTEGER NOT NULL, task_id TEXT NOT NULL, task TEXT NOT NULL, stop TEXT NOT NULL, answer TEXT NOT NULL,
  title TEXT NOT NULL, score REAL, format REAL, searches INTEGER, tokens INTEGER, hit REAL, reward REAL, length REAL,
  f1 REAL, em REAL, trained INTEGER, advantage REAL, UNIQUE (source, "group", sample)
);
CREATE INDEX of_task ON episodes (source, task_id, version, task, score, "group", sample);
CREATE INDEX of_kind ON episodes (source, task, stop, version);
CREATE INDEX of_list ON episodes (
  step, "group", sample, source, task, stop, version, score, reward, format, length, advantage, searches, tokens, hit,
  f1, em, trained, task_id
);
CREATE INDEX of_training ON episodes (trained) WHERE trained IS NOT NULL;
CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE tokens (id INTEGER PRIMARY KEY, sampled BLOB NOT NULL, updated BLOB);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# Contentless: the index holds no second copy of the text. A row is deleted by giving its text once more.
_SEARCH = "CREATE VIRTUAL TABLE search USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2')"
_TRIMMED = 0.9  # a file that became too large is cut to this share of its bound, so that cuts are rare
_AT_LEAST = 4  # groups deleted at a time
_WAL_BYTES = 16 << 20


class EpisodeStore:
    """The database at `path`, opened for writing. Raises ValueError that names a file which is no such database."""

    def __init__(self, path: Path, max_bytes: int | None = None):
        """max_bytes: bound on the pages in use; None: no bound."""
        self.path, self._max_bytes = path, max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        with _named(path):
            self._db = sqlite3.connect(path)
            # Readers see the last commit while a write runs. A commit may be lost with the power, never half written.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create()
            check_version(self._db, path)
            self._searchable = has_search(self._db)

    def _create(self) -> None:
        with self._db:
            self._db.executescript(_TABLES)
            # OperationalError: a build without FTS5
            with contextlib.suppress(sqlite3.OperationalError):
                self._db.execute(_SEARCH)
            self._db.execute(f"PRAGMA user_version={_VERSION}")

    def add(self, episodes: Iterable[tuple[Episode, bytes | None]]) -> None:
        """Add episodes, each with the packed values of its tokens if it has any, in one transaction.

        An episode of the same source, group and sample is replaced. Afterwards the bound on bytes holds again.
        """
        names = (*COLUMNS, "title")
        listed = ", ".join(f'"{name}"' for name in names)
        insert = f"INSERT INTO episodes ({listed}) VALUES ({', '.join('?' * len(names))})"
        with _named(self.path), self._db:
            for episode, tokens in episodes:
                same = 'source = ? AND "group" = ? AND sample = ?'
                self._delete(same, (episode.source, episode.group, episode.sample))
                row = self._db.execute(insert, [getattr(episode, name) for name in names]).lastrowid
                body = episode.body()
                self._db.execute("INSERT INTO bodies VALUES (?, ?)", (row, body))
                if tokens is not None:
                    self._db.execute("INSERT INTO tokens VALUES (?, ?, NULL)", (row, tokens))
                if self._searchable:
                    text = search_text(episode.task_id, episode.answer, read_body(body))
                    self._db.execute("INSERT INTO search (rowid, text) VALUES (?, ?)", (row, text))
        self._trim()

    def set_trained(self, source: str, step: int, values: Iterable[tuple[int, int, float, bytes]]) -> None:
        """Record that iteration `step` trained on episodes: (group, sample, advantage, packed values of its tokens).

        Episodes that the file does not hold are passed over.
        """
        with _named(self.path), self._db:
            for group, sample, advantage, packed in values:
                found = self._db.execute(
                    'SELECT id FROM episodes WHERE source = ? AND "group" = ? AND sample = ?', (source, group, sample)
                ).fetchone()
                if found:
                    self._db.execute("UPDATE episodes SET trained=?, advantage=? WHERE id=?", (step, advantage, *found))
                    self._db.execute("UPDATE tokens SET updated = ? WHERE id = ?", (packed, *found))
        self._trim()

    def cut(self, step: int) -> None:
        """Drop what was sampled or trained after `step`, so that a resumed run writes it once more."""
        with _named(self.path), self._db:
            self._delete("step > ?", (step,))
            later = "SELECT id FROM episodes WHERE trained > ?"
            self._db.execute(f"UPDATE tokens SET updated = NULL WHERE id IN ({later})", (step,))
            self._db.execute("UPDATE episodes SET trained = NULL, advantage = NULL WHERE trained > ?", (step,))

    def copy_after(self, step: int, target: Path) -> None:
        """Copy what was sampled or trained after `step` to a new database `target`; one that is there is replaced."""
        partial = target.with_name(target.name + ".partial")  # a kill leaves no half copy under the name
        partial.unlink(missing_ok=True)
        with contextlib.closing(EpisodeStore(partial)) as copy, _named(target):
            copy._db.execute("ATTACH ? AS whole", (str(self.path),))
            with copy._db:
                later = "step > ? OR trained > ?"
                copy._db.execute(f"INSERT INTO episodes SELECT * FROM whole.episodes WHERE {later}", (step, step))
                for table in ("bodies", "tokens"):
                    ids = "SELECT id FROM main.episodes"
                    copy._db.execute(f"INSERT INTO {table} SELECT * FROM whole.{table} WHERE id IN ({ids})")
                if copy._searchable:
                    texts = copy._db.execute(
                        "SELECT id, task_id, answer, body FROM main.episodes JOIN main.bodies USING (id)"
                    )
                    for row, task_id, answer, body in texts.fetchall():
                        text = search_text(task_id, answer, read_body(body))
                        copy._db.execute("INSERT INTO search (rowid, text) VALUES (?, ?)", (row, text))
        os.replace(partial, target)

    def replace_source(self, source: str, episodes: Sequence[Episode], state: str) -> None:
        """Replace all episodes of a source. state: a text that says which data they are from, for `state`."""
        with _named(self.path), self._db:
            self._delete("source = ?", (source,))
            self._db.execute("DELETE FROM facts WHERE name = ?", (source,))
        self.add((episode, None) for episode in episodes)
        with _named(self.path), self._db:
            if state:
                self._db.execute("INSERT INTO facts VALUES (?, ?)", (source, state))

    def states(self) -> dict[str, str]:
        """Return {source: state} of every source that `replace_source` wrote."""
        with _named(self.path):
            return dict(self._db.execute("SELECT name, value FROM facts"))

    def used_bytes(self) -> int:
        """Return the bytes of the pages in use. Pages of deleted rows stay in the file and are used again."""
        page, pages, free = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        return int(page * (pages - free))

    def close(self) -> None:
        self._db.close()

    def _trim(self) -> None:
        if self._max_bytes is None or self.used_bytes() <= self._max_bytes:
            return
        with _named(self.path):
            while (used := self.used_bytes()) > self._max_bytes * _TRIMMED:
                # All that are too many at once, if they are of usual size: each merge reads the whole index of words.
                (groups,) = self._db.execute(
                    'SELECT count(*) FROM (SELECT DISTINCT step, source, "group" FROM episodes)'
                ).fetchone()
                surplus = int(groups * (1 - self._max_bytes * _TRIMMED / used))
                oldest = self._db.execute(
                    'SELECT DISTINCT step, source, "group" FROM episodes ORDER BY step, "group" LIMIT ?',
                    (max(surplus, _AT_LEAST),),
                ).fetchall()
                if not oldest:
                    break
                with self._db:
                    for _, source, group in oldest:
                        self._delete('source = ? AND "group" = ?', (source, group))
                    if self._searchable:  # a deleted text takes room until the index is merged
                        self._db.execute("INSERT INTO search (search) VALUES ('optimize')")

    def _delete(self, which: str, values: Sequence[object]) -> None:
        """Delete the episodes for which the SQL condition `which` is true."""
        rows = self._db.execute(f"SELECT id, task_id, answer FROM episodes WHERE {which}", values).fetchall()
        for row, task_id, answer in rows:
            if self._searchable:
                (body,) = self._db.execute("SELECT body FROM bodies WHERE id = ?", (row,)).fetchone()
                text = search_text(task_id, answer, read_body(body))
                self._db.execute("INSERT INTO search (search, rowid, text) VALUES ('delete', ?, ?)", (row, text))
            for table in ("episodes", "bodies", "tokens"):
                self._db.execute(f"DELETE FROM {table} WHERE id = ?", (row,))


def has_search(db: sqlite3.Connection, schema: str = "main") -> bool:
    """Return True if the database has the table of full-text search and this SQLite can read it."""
    try:
        db.execute(f"SELECT rowid FROM {schema}.search LIMIT 0")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # locked, for instance: that says nothing about the table
            raise
        return False
    return True


def check_version(db: sqlite3.Connection, path: Path, schema: str = "main") -> None:
    """Raise ValueError that names the file if another version of the code wrote it, or something else did."""
    (found,) = db.execute(f"PRAGMA {schema}.user_version").fetchone()
    if found != _VERSION:
        raise ValueError(
            f"{path} holds episodes of version {found}, this code reads version {_VERSION}; remove the file: a "
            "training goes on without its earlier trajectories, and the viewer reads evaluations anew"
        )


def address(path: Path) -> str:
    """Return the URI that opens the file for reading.

    Where its folder cannot be written to and nothing is writing to it, SQLite is told that the file does not change:
    otherwise it would want to make a file beside it.
    """
    fixed = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if fixed else ''}"


def problem_of(path: Path) -> str:
    """Return a sentence about a file that cannot be read, '' if it can be, or if there is none."""
    try:
        _read(path)
    except ValueError as error:
        return str(error)
    except sqlite3.Error as error:
        return f"{path} cannot be read: {error}"
    return ""


def is_unusable(path: Path) -> bool:
    """Return True if the file is damaged or of another version, whoever opens it. A file in use is neither."""
    try:
        _read(path)
    except sqlite3.OperationalError:  # locked by another process, or no right to read it
        return False
    except (sqlite3.DatabaseError, ValueError):
        return True
    return False


def _read(path: Path) -> None:
    """Read a row of the file, if there is one. Raises sqlite3.Error, and ValueError for another version."""
    if path.exists():
        with contextlib.closing(sqlite3.connect(address(path), uri=True)) as db:
            check_version(db, path)
            db.execute("SELECT id FROM episodes LIMIT 1").fetchone()


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors of SQLite: OSError if it cannot be written, ValueError if it is damaged."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"{path}: {error}; see that the disk has room and that the file can be written") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, a training goes on without it") from error
