"""Questions to the databases of episodes: lists, one episode, a group, two sources on the same tasks.

Enters: runs and the parameters of a request. Leaves: JSON data. Every value of a request is bound or looked up in a
table here, never written into SQL. Each call opens its own read-only connection, so calls may run on many threads.
"""

import contextlib
import dataclasses
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from masksearch_jax.evals.report.task_labels import task_label
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.text import tags
from masksearch_jax.trajectories.episode import read_body, unpack_arrays
from masksearch_jax.trajectories.store import COLUMNS, address, check_version, has_search
from masksearch_jax.viewer.sources import Run, Runs

_LISTED = (*(name for name in COLUMNS if name != "length"), "title", "length", "trained", "advantage")
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
        match = re.fullmatch(r"(\d)~([^~]+)(?:~(\d+))?", text)
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
                        f"SELECT source, task, stop, version, count(*) FROM {schema}.episodes "
                        "GROUP BY source, task, stop, version"
                    )
                    for source, task, stop, version, count in rows:
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
        with self._connection() as open_db:
            parts, values = [], []
            for schema, run, sources in open_db.chosen(_sources(given.get("sources", ""))):
                conditions, bound = _conditions(given, sources, open_db.searches(schema))
                parts.append((f"{schema}.episodes WHERE {conditions}", run, schema))
                values += bound
            if not parts:
                return {"total": 0, "offset": 0, "rows": []}
            counted = " + ".join(f"(SELECT count(*) FROM {part})" for part, _, _ in parts)
            (total,) = open_db.db.execute(f"SELECT {counted}", values).fetchone()
            listed = " UNION ALL ".join(
                f"SELECT {run} AS run, {_LIST_SQL} FROM {part}" for part, run, _ in parts
            )
            rows = open_db.db.execute(
                f"SELECT * FROM ({listed}) ORDER BY {_order(given)} LIMIT ? OFFSET ?", [*values, limit, offset]
            ).fetchall()
        return {"total": total, "offset": offset, "rows": [_row(row) for row in rows]}

    # --- Single ones -------------------------------------------------------------------------------------------------

    def group(self, source: Source, group: int, sample: int | None = None) -> list[JsonObject]:
        """Return all samples of a group whole, or one of them. Raises KeyError if there is none."""
        found = []
        with self._connection() as open_db:
            for schema in open_db.of(source.run):
                chosen = f'SELECT * FROM {schema}.episodes WHERE source = ? AND "group" = ? AND (? IS NULL OR sample = ?)'
                rows = open_db.db.execute(
                    f"SELECT {source.run} AS run, {_LIST_SQL}, body, sampled, updated FROM ({chosen}) "
                    f"JOIN {schema}.bodies USING (id) LEFT JOIN {schema}.tokens USING (id) ORDER BY sample",
                    (source.name, group, sample, sample),
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
                    f'SELECT "group", sample FROM {schema}.episodes WHERE source = ? AND task_id = ? AND (? IS NULL OR '
                    'version = ?) ORDER BY "group", sample LIMIT 8',
                    (source.name, task_id, source.version, source.version),
                ).fetchall()
        return [self.group(source, group, sample)[0] for group, sample in found]

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
            sides, values = [], []
            for name in ("a", "b"):
                source = Source.parse(given.get(name, ""))
                union = []
                for schema in open_db.of(source.run):
                    union.append(
                        f'SELECT task_id, task, title, score, "group", sample FROM {schema}.episodes WHERE source = ? '
                        "AND score IS NOT NULL AND (? IS NULL OR version = ?) AND (? = '' OR task = ?)"
                    )
                    task = given.get("task", "")
                    values += [source.name, source.version, source.version, task, task]
                if not union:
                    raise KeyError(f"no run {source.run}")
                sides.append(
                    f"{name} AS MATERIALIZED (SELECT task_id, task, title, avg(score) AS score, count(*) AS n FROM "
                    f"({' UNION ALL '.join(union)}) GROUP BY task_id)"
                )
            with_both = f"WITH {', '.join(sides)}, both AS MATERIALIZED (SELECT a.task_id AS task_id, a.task AS task, " \
                "a.title AS title, a.score AS a, b.score AS b, a.n AS n_a, b.n AS n_b, b.score - a.score AS difference " \
                "FROM a JOIN b USING (task_id)) "
            total, mean_a, mean_b, mean, square = open_db.db.execute(
                with_both + "SELECT count(*), avg(a), avg(b), avg(difference), avg(difference * difference) FROM both",
                values,
            ).fetchone()
            rows = open_db.db.execute(
                f"{with_both}SELECT * FROM both ORDER BY {sort} {'DESC' if descending else 'ASC'}, task_id "
                "LIMIT ? OFFSET ?",
                [*values, limit, offset],
            ).fetchall()
        error = (max(square - mean * mean, 0.0) / (total - 1)) ** 0.5 if total > 1 else None
        return {
            "total": total, "offset": offset, "mean_a": mean_a, "mean_b": mean_b, "difference": mean, "se": error,
            "rows": [dict(row) for row in rows],
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


class _Open:
    """A connection with every database attached, each under a name of its own."""

    def __init__(self, db: sqlite3.Connection, runs: Sequence[Run]):
        self.db = db
        self._schemas: list[tuple[str, int]] = []
        self._searchable = {}
        for run in runs:
            for path in run.databases:
                schema = f"db{len(self._schemas)}"
                try:
                    db.execute(f"ATTACH ? AS {schema}", (address(Path(path)),))
                    check_version(db, path, schema)
                except sqlite3.Error as error:
                    raise ValueError(f"{path} cannot be read: {error}") from error
                self._schemas.append((schema, run.number))
                self._searchable[schema] = has_search(db, schema)

    @property
    def searchable(self) -> bool:
        return all(self._searchable.values())

    def searches(self, schema: str) -> str:
        """Return the name of the table of full-text search, '' if there is none."""
        return f"{schema}.search" if self._searchable[schema] else ""

    def of(self, run: int) -> list[str]:
        return [schema for schema, number in self._schemas if number == run]

    def chosen(self, sources: Sequence[Source]) -> list[tuple[str, int, list[Source]]]:
        """Return (schema, run, sources) of every database that is asked; no sources mean all of them."""
        asked = [
            (schema, run, [source for source in sources if source.run == run]) for schema, run in self._schemas
        ]
        return [(schema, run, own) for schema, run, own in asked if own or not sources]


def search_words(text: str) -> str:
    """Return what a person typed as a query of FTS5: every word or "phrase" has to be there; the last may go on."""
    parts = [part for part in re.findall(r'"[^"]+"|[^\s"]+', text) if re.search(r"\w", part)]
    words = ['"' + part.strip('"') + '"' for part in parts]
    if words and not text.rstrip().endswith('"'):
        words[-1] += "*"
    return " ".join(words)


def _sources(text: str) -> list[Source]:
    return [Source.parse(part) for part in text.split("|") if part]


def _conditions(given: Mapping[str, str], sources: Sequence[Source], search: str) -> tuple[str, list[Json]]:
    """Return the SQL condition of a list and the values that it binds."""
    parts, values = ["1"], []
    if sources:
        one_of = []
        for source in sources:
            one_of.append("source = ?" if source.version is None else "(source = ? AND version = ?)")
            values += [source.name] if source.version is None else [source.name, source.version]
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
    if words and search:
        parts.append(f"id IN (SELECT rowid FROM {search} WHERE search MATCH ?)")
        values.append(words)
    elif text.strip():
        for word in text.split():
            parts.append("(title LIKE ? ESCAPE '!' OR answer LIKE ? ESCAPE '!' OR task_id LIKE ? ESCAPE '!')")
            values += ["%" + re.sub("([!%_])", r"!\1", word) + "%"] * 3
    return " AND ".join(parts), values


def _order(given: Mapping[str, str]) -> str:
    sort = given.get("sort") or "newest"
    if sort not in SORTS:
        raise ValueError(f"sort={sort[:40]!r} is none of {SORTS}")
    direction = "ASC" if given.get("order") == "asc" else "DESC"
    rest = 'run, source, "group", sample'
    if sort == "newest":
        return f"step {direction}, {rest}"
    return f"{sort} IS NULL, {sort} {direction}, {rest}"


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
    return {"run": row["run"], **{name: row[name] for name in _LISTED}}


def _whole_episode(row: sqlite3.Row) -> JsonObject:
    """Return an episode with its body and, from training, `values`: {name: a value for each token}."""
    found = _row(row) | read_body(row["body"])
    if row["sampled"] is not None:
        found["values"] = unpack_arrays(row["sampled"]) | (unpack_arrays(row["updated"]) if row["updated"] else {})
    return found
