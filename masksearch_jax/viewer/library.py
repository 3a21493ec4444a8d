"""Answer questions about the databases of episodes: lists, one episode, a group, two sources on the same tasks.

Enters: runs and the parameters of a request. Leaves: JSON data. Every value of a request is bound or looked up in a
table here, never written into SQL. Each call opens its own read-only connection, so calls may run on many threads.
"""

import contextlib
import dataclasses
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.text import tags
from masksearch_jax.trajectories.episode import read_body, unpack_arrays
from masksearch_jax.trajectories.store import COLUMNS, address, check_version, has_search
from masksearch_jax.viewer.sources import Run, Runs

_LISTED = (*(name for name in COLUMNS if name != "source"), "title", "trained", "advantage")
_LIST_SQL = ", ".join(f'"{name}"' for name in _LISTED)
# What can be sorted by and bounded by min_<name> and max_<name>.
NUMBERS = (
    "score", "reward", "format", "length", "advantage", "searches", "tokens", "version", "step", "hit", "f1", "em",
    "trained",
)  # fmt: skip
SORTS = ("newest", *NUMBERS)
MOST_ROWS = 200  # of a page
_BUSY_MS = 5000


@dataclasses.dataclass(frozen=True)
class Source:
    """Where episodes are from: a source of a run. version: one policy version of it, None for all."""

    run: int
    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read 'run~source' or 'run~source~version'. Raises ValueError."""
        match = re.fullmatch(r"([0-9])~([^~]+)(?:~([0-9]{1,18}))?", text)
        if not match:
            raise ValueError(f"{text[:100]!r} is no source; write run~source, such as 0~dapo or 0~dapo~12")
        return cls(int(match[1]), match[2], int(match[3]) if match[3] else None)


class Library:
    """The episodes of `runs`. Methods raise ValueError for parameters that mean nothing, KeyError for no such thing."""

    def __init__(self, runs: Runs):
        self._runs = runs

    # --- What there is -----------------------------------------------------------------------------------------------

    def overview(self) -> JsonObject:
        """Return every run with its sources, and of each source how many episodes of which task, stop and version."""
        self._runs.refresh()
        found: list[JsonObject] = []
        with self._connection() as open_db:
            for run in self._runs.found:
                sources: dict[str, JsonObject] = {}
                for schema in open_db.of(run.number):
                    rows = open_db.db.execute(
                        f"SELECT source, task, stop, version, count(*) FROM {schema.name}.episodes "
                        "GROUP BY source, task, stop, version"
                    )
                    for stored, task, stop, version, count in rows:
                        source = schema.source or stored
                        one = sources.setdefault(
                            source, {"name": source, "episodes": 0, "tasks": {}, "stops": {}, "versions": {}}
                        )
                        one["episodes"] += count
                        one["tasks"][task] = one["tasks"].get(task, 0) + count
                        one["stops"][stop] = one["stops"].get(stop, 0) + count
                        if version is not None:
                            one["versions"][version] = one["versions"].get(version, 0) + count
                ordered = [sources[name] for name in sorted(sources, key=lambda name: ("evaluate" in name, name))]
                found.append({
                    "run": run.number, "name": run.name, "problems": run.problems, "sources": ordered,
                })  # fmt: skip
            searchable = open_db.searchable
        tasks = {task for run in found for source in run["sources"] for task in source["tasks"]}
        return {
            "runs": found,
            "full_text": searchable,
            "labels": {task: task_label(task) for task in sorted(tasks)},
            "tags": {
                "think": tags.THINK, "search": tags.SEARCH, "answer": tags.ANSWER, "information": tags.INFORMATION,
                "mask": tags.MASK,
            },
        }  # fmt: skip

    # --- Lists -------------------------------------------------------------------------------------------------------

    def episodes(self, given: Mapping[str, str]) -> JsonObject:
        """Return a page of episodes: {'total', 'offset', 'rows'}.

        given: sources ('0~dapo', several separated by '|'; '' for all), task, stop, q (words to search for), min_<n>
        and max_<n> for n of NUMBERS, trained ('yes' | 'no'), sort (of SORTS), order ('asc' | 'desc'), offset, limit.
        """
        limit, offset = _whole(given, "limit", 50, MOST_ROWS), _whole(given, "offset", 0, 1 << 40)
        sort, direction = _order(given)
        sources = [Source.parse(part) for part in given.get("sources", "").split("|") if part]
        with self._connection() as open_db:
            counts, lists = [], []
            values: list[Json] = []
            schemas = open_db.schemas
            for place, schema in enumerate(schemas):
                own = [(schema.stored(one.name), one.version) for one in sources if one.run == schema.run]
                if sources and not any(stored for stored, _ in own):
                    continue
                condition, bound = _condition(given, [one for one in own if one[0]], schema)
                counts.append(f"(SELECT count(*) FROM {schema.name}.episodes WHERE {condition})")
                # Only what decides the order is sorted; the rows of the page are read afterwards.
                lists.append(
                    f'SELECT {place} AS place, id, source, "group", sample, {sort} AS sorted FROM '
                    f"{schema.name}.episodes WHERE {condition}"
                )
                values += bound
            if not lists:
                return {"total": 0, "offset": 0, "rows": []}
            (total,) = open_db.db.execute(f"SELECT {' + '.join(counts)}", values).fetchone()
            found = open_db.db.execute(
                f"SELECT place, id FROM ({' UNION ALL '.join(lists)}) ORDER BY sorted IS NULL, sorted {direction}, "
                'place, source, "group", sample LIMIT ? OFFSET ?',
                [*values, limit, offset],
            ).fetchall()
            rows = [open_db.row(schemas[place], number) for place, number in found]
        return {"total": total, "offset": offset, "rows": rows}

    # --- Single ones -------------------------------------------------------------------------------------------------

    def group(self, source: Source, group: int, sample: int | None = None) -> list[JsonObject]:
        """Return all samples of a group whole, or one of them. Raises KeyError if there is none."""
        found = []
        with self._connection() as open_db:
            for schema in open_db.of(source.run):
                own = 'source = ? AND "group" = ? AND (? IS NULL OR sample = ?)'
                chosen = f"SELECT * FROM {schema.name}.episodes WHERE {own}"
                rows = open_db.db.execute(
                    f"SELECT {schema.selected}, body, sampled, updated FROM ({chosen}) JOIN {schema.name}.bodies "
                    f"USING (id) LEFT JOIN {schema.name}.tokens USING (id) ORDER BY sample",
                    (*schema.bound, schema.stored(source.name), group, sample, sample),
                ).fetchall()
                found += [_whole_episode(row) for row in rows]
        if not found:
            raise KeyError(f"no episode of group {group} in {source.name}")
        return found

    def of_task(self, source: Source, task_id: str) -> list[JsonObject]:
        """Return the first episodes of a task in a source, at most eight, in the order of the list."""
        with self._connection() as open_db:
            found = []
            for schema in open_db.of(source.run):
                found += open_db.db.execute(
                    f'SELECT "group", sample FROM {schema.name}.episodes WHERE source = ? AND task_id = ? AND '
                    '(? IS NULL OR version = ?) ORDER BY "group", sample LIMIT 8',
                    (schema.stored(source.name), task_id, source.version, source.version),
                ).fetchall()
        return [self.group(source, group, sample)[0] for group, sample in found]

    def groups(self, source: Source) -> list[tuple[str, int]]:
        """Return (task id, group) of every group of a source."""
        with self._connection() as open_db:
            return [
                tuple(row)
                for schema in open_db.of(source.run)
                for row in open_db.db.execute(
                    f'SELECT DISTINCT task_id, "group" FROM {schema.name}.episodes WHERE source = ?',
                    (schema.stored(source.name),),
                )
            ]

    # --- Two sources -------------------------------------------------------------------------------------------------

    def compare(self, given: Mapping[str, str]) -> JsonObject:
        """Return the tasks that both sources have: {'total', 'mean_a', 'mean_b', 'difference', 'se', 'rows'}.

        given: a, b (as `Source.parse` reads them), task, sort ('difference' | 'a' | 'b' | 'task_id'), order, offset,
        limit. A task with several episodes counts with the mean of their scores. difference: mean of b - a. se: its
        standard error, None for fewer than two tasks.
        """
        limit, offset = _whole(given, "limit", 50, MOST_ROWS), _whole(given, "offset", 0, 1 << 40)
        sort, descending = given.get("sort", "difference"), given.get("order", "desc") == "desc"
        if sort not in ("difference", "a", "b", "task_id"):
            raise ValueError(f"sort={sort[:40]!r} is none of ('difference', 'a', 'b', 'task_id')")
        with self._connection() as open_db:
            sides, values, asked = [], list[Json](), []
            for name in ("a", "b"):
                source, task, union = Source.parse(given.get(name, "")), given.get("task", ""), []
                for schema in open_db.of(source.run):
                    union.append(
                        f"SELECT task_id, score FROM {schema.name}.episodes WHERE source = ? AND score IS NOT NULL "
                        "AND (? IS NULL OR version = ?) AND (? = '' OR task = ?)"
                    )
                    values += [schema.stored(source.name), source.version, source.version, task, task]
                if not union:
                    raise KeyError(f"no run {source.run}")
                asked.append(source)
                sides.append(
                    f"(SELECT task_id, avg(score) AS score, count(*) AS n FROM ({' UNION ALL '.join(union)}) "
                    f"GROUP BY task_id) AS {name}"
                )
            open_db.db.execute(
                "CREATE TABLE both AS SELECT a.task_id AS task_id, a.score AS a, b.score AS b, a.n AS n_a, b.n AS n_b, "
                f"b.score - a.score AS difference FROM {sides[0]} JOIN {sides[1]} USING (task_id)",
                values,
            )
            total, mean_a, mean_b, mean, square = open_db.db.execute(
                "SELECT count(*), avg(a), avg(b), avg(difference), avg(difference * difference) FROM both"
            ).fetchone()
            rows = [
                dict(row) | open_db.about_task(asked[0], row["task_id"])
                for row in open_db.db.execute(
                    f"SELECT * FROM both ORDER BY {sort} {'DESC' if descending else 'ASC'}, task_id LIMIT ? OFFSET ?",
                    (limit, offset),
                ).fetchall()
            ]
        error = (max(square - mean * mean, 0.0) / (total - 1)) ** 0.5 if total > 1 else None
        return {
            "total": total, "offset": offset, "mean_a": mean_a, "mean_b": mean_b, "difference": mean, "se": error,
            "rows": rows,
        }  # fmt: skip

    # --- Connections -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _connection(self) -> Iterator["_Open"]:
        db = sqlite3.connect("file::memory:", uri=True, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            yield _Open(db, self._runs.found)
        finally:
            db.close()


@dataclasses.dataclass(frozen=True)
class _Schema:
    """An attached database. name: in SQL. source: as in `sources.Database`. search: whether it has full-text search.

    only: the name by which the file itself calls its one source; '' if `source` is ''.
    """

    name: str
    run: int
    source: str
    only: str
    search: bool

    @property
    def selected(self) -> str:
        """The columns of a list, with `bound` for their placeholders."""
        return f"{self.run} AS run, {'? AS source' if self.source else 'source'}, {_LIST_SQL}"

    @property
    def bound(self) -> list[Json]:
        return [self.source] if self.source else []

    def stored(self, source: str) -> str | None:
        """Return how the file calls a source, None if it cannot hold it."""
        return source if not self.source else self.only if source == self.source else None


class _Open:
    """A connection with every database attached, each under a name of its own."""

    def __init__(self, db: sqlite3.Connection, runs: Sequence[Run]):
        self.db = db
        self.schemas: list[_Schema] = []
        for run in runs:
            for one in run.databases:
                name, only = f"db{len(self.schemas)}", None
                try:
                    db.execute(f"ATTACH ? AS {name}", (address(one.path),))
                    check_version(db, one.path, name)
                    if one.source:
                        only = db.execute(f"SELECT source FROM {name}.episodes LIMIT 1").fetchone()
                    search = has_search(db, name)
                except sqlite3.Error as error:
                    raise ValueError(f"{one.path} cannot be read: {error}") from error
                self.schemas.append(_Schema(name, run.number, one.source, only[0] if only else "", search))

    @property
    def searchable(self) -> bool:
        return all(schema.search for schema in self.schemas)

    def row(self, schema: _Schema, number: int) -> JsonObject:
        """Return the row of a list with this id."""
        statement = f"SELECT {schema.selected} FROM {schema.name}.episodes WHERE id = ?"
        return _row(self.db.execute(statement, (*schema.bound, number)).fetchone())

    def about_task(self, source: Source, task_id: str) -> JsonObject:
        """Return the task and the title of a task id in a source."""
        for schema in self.of(source.run):
            statement = f"SELECT task, title FROM {schema.name}.episodes WHERE source = ? AND task_id = ? LIMIT 1"
            if row := self.db.execute(statement, (schema.stored(source.name), task_id)).fetchone():
                return dict(row)
        return {"task": "", "title": task_id}

    def of(self, run: int) -> list[_Schema]:
        return [schema for schema in self.schemas if schema.run == run]


def search_words(text: str) -> str:
    """Return what a person typed as a query of FTS5: every word or "phrase" has to be there; the last may go on."""
    parts = [part for part in re.findall(r'"[^"]+"|[^\s"]+', text) if re.search(r"\w", part)]
    words = ['"' + part.strip('"') + '"' for part in parts]
    if words and not text.rstrip().endswith('"'):
        words[-1] += "*"
    return " ".join(words)


def _condition(
    given: Mapping[str, str], sources: Sequence[tuple[str | None, int | None]], schema: _Schema
) -> tuple[str, list[Json]]:
    """Return the SQL condition of a list and the values that it binds. sources: (name in the file, version or None)."""
    parts, values = ["1"], list[Json]()
    if sources:
        one_of = []
        for name, version in sources:
            one_of.append("source = ?" if version is None else "(source = ? AND version = ?)")
            values += [name] if version is None else [name, version]
        parts.append(f"({' OR '.join(one_of)})")
    for name in ("task", "stop", "task_id"):
        if given.get(name):
            parts.append(f"{name} = ?")
            values.append(given[name])
    for name in NUMBERS:
        for bound, sign in (("min", ">="), ("max", "<=")):
            if given.get(f"{bound}_{name}"):
                parts.append(f"{name} {sign} ?")
                values.append(_number(given, f"{bound}_{name}"))
    if given.get("trained") in ("yes", "no"):
        parts.append(f"trained IS {'NOT ' if given['trained'] == 'yes' else ''}NULL")
    text = given.get("q", "")
    words = search_words(text)
    if words and schema.search:
        parts.append(f"id IN (SELECT rowid FROM {schema.name}.search WHERE search MATCH ?)")
        values.append(words)
    elif text.strip():
        for word in text.split():
            parts.append("(title LIKE ? ESCAPE '!' OR answer LIKE ? ESCAPE '!' OR task_id LIKE ? ESCAPE '!')")
            values += ["%" + re.sub("([!%_])", r"!\1", word) + "%"] * 3
    return " AND ".join(parts), values


def _order(given: Mapping[str, str]) -> tuple[str, str]:
    """Return the column that a list is sorted by, and the direction."""
    sort = given.get("sort") or "newest"
    if sort not in SORTS:
        raise ValueError(f"sort={sort[:40]!r} is none of {SORTS}")
    return ("step" if sort == "newest" else sort), ("ASC" if given.get("order") == "asc" else "DESC")


def _whole(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError(f"{name}={text[:40]!r} is no whole number")
    return min(int(text), most)


def _number(given: Mapping[str, str], name: str) -> float:
    try:
        return float(given[name])
    except ValueError:
        raise ValueError(f"{name}={given[name][:40]!r} is no number") from None


def _row(row: sqlite3.Row) -> JsonObject:
    return {name: row[name] for name in ("run", "source", *_LISTED)}


def _whole_episode(row: sqlite3.Row) -> JsonObject:
    """Return an episode with its body and, from training, `values`: {name: a value for each token}."""
    found = _row(row) | read_body(row["body"])
    if row["sampled"] is not None:
        found["values"] = unpack_arrays(row["sampled"]) | (unpack_arrays(row["updated"]) if row["updated"] else {})
    return found
