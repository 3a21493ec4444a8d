"""The content of a report page as plain data: sections of tables, charts, episodes and settings.

All text is plain text. html_page escapes it.
"""

import dataclasses
from collections.abc import Mapping

from masksearch_jax.runtime.types import Json


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    head: column titles. rows: cells as shown, one per title; the first is the name of the row. folded: shown after the
    charts, closed until the reader opens it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    folded: bool = False

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"table {self.title!r}: {len(row)} cells under {len(self.head)} titles: {row}")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve. x, y: coordinates of n points. half_width: of an interval around each y; None for no interval."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    half_width: tuple[float | None, ...] | None = None

    def __post_init__(self):
        if not len(self.x) == len(self.y) == len(self.half_width or self.y):
            raise ValueError(f"curve {self.label!r}: x, y and half_width have to be equally long")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A small chart. Axis labels name the unit in parentheses.

    kind: 'line'; 'stack' (parts on top of each other; all curves have the same x); 'bars' (horizontal, one group per
    name; curve.x are indices into names); 'parts' (one horizontal bar of the first y of each curve, end to end).
    log: logarithmic y axis for lines; values must be positive.
    """

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    kind: str = "line"
    names: tuple[str, ...] = ()
    log: bool = False

    def __post_init__(self):
        if self.kind not in ("line", "stack", "bars", "parts"):
            raise ValueError(f"chart {self.title!r}: kind {self.kind!r} is none of ('line', 'stack', 'bars', 'parts')")
        if not self.curves:
            raise ValueError(f"chart {self.title!r} has no curve")


@dataclasses.dataclass(frozen=True)
class Turn:
    """One model turn and the reply of the environment.

    thought, query, answer: the text in the tags. written: the whole text of a turn that was not a valid action.
    passages: ids of the hits.
    """

    thought: str = ""
    query: str = ""
    answer: str = ""
    written: str = ""
    error: str = ""
    passages: tuple[int, ...] = ()
    observation: str = ""


@dataclasses.dataclass(frozen=True)
class Episode:
    """An episode. golds: accepted answers of each mask, or of the question. facts: scores and counts in a few words."""

    title: str
    task: str
    golds: tuple[tuple[str, ...], ...]
    facts: str
    turns: tuple[Turn, ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """A section. It shows, in this order: text, tables, charts, folded tables, episodes, settings (nested mappings)."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    episodes: tuple[Episode, ...] = ()
    settings: Mapping[str, Json] | None = None


@dataclasses.dataclass(frozen=True)
class Page:
    """A page. facts: (name, value) pairs under the title that say what was run and when."""

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
