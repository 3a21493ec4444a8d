"""The toy world: named entities of five kinds and one-to-one facts between them, in disjoint clusters, one per split.

Enters: a number of entities, a seed, the share of each split. Leaves: a `World`. Other modules decide how a fact is
worded and in which files the world is written. Every entity has two or three facts, so its name alone does not tell
which article contains an answer, while its name and the right keyword do. Dates are drawn independently of each other
(a book may appear before its author is born), so none can be guessed from the others.
"""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence, Set

from masksearch_jax.toywiki import names

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_YEARS = range(1000, 2000)

# Shares that let every kind have three facts per entity. The smallest cluster has two persons and one of each other
# kind.
_KIND_SHARES = {"city": 0.20, "company": 0.16, "work": 0.16, "river": 0.08}
_SMALLEST_CLUSTER = 6
SPLITS = ("train", "validation", "test")
# Titles are balanced: every word has about this many train titles before pools reach their full size.
_TITLES_PER_WORD = 8


@dataclasses.dataclass(frozen=True)
class Relation:
    """A one-to-one relation of two kinds. dated: whether all its facts carry a date. number: what they count, or ''."""

    name: str
    subject: str
    object: str
    dated: bool = False
    number: str = ""


RELATIONS = (
    Relation("birth", "person", "city", dated=True),
    Relation("founding", "person", "company", dated=True),
    Relation("authorship", "person", "work", dated=True),
    Relation("exploration", "person", "river", dated=True),
    Relation("marriage", "person", "person"),
    Relation("headquarters", "company", "city", number="population"),
    Relation("setting", "work", "city"),
    Relation("course", "river", "city", number="kilometres"),
    Relation("printing", "work", "company"),
)


@dataclasses.dataclass(frozen=True)
class Entity:
    """One thing with an article. female: used only for persons (pronouns and couples)."""

    title: str
    kind: str
    split: str
    female: bool


@dataclasses.dataclass(frozen=True)
class Fact:
    """A `relation` that holds between two entities (positions in `World.entities`). date, number: '' if it has none."""

    relation: Relation
    subject: int
    object: int
    date: str
    number: str

    def other(self, entity: int) -> int:
        """Return the entity at the other end."""
        return self.object if entity == self.subject else self.subject


@dataclasses.dataclass(frozen=True)
class World:
    """Entities in the order of their articles, facts, and for each entity the positions of its facts."""

    entities: list[Entity]
    facts: list[Fact]
    facts_of: list[list[int]]


def build_world(
    entities: int,
    seed: int,
    split_shares: Mapping[str, float],
    taken: Set[str] = frozenset(),
    first_words: int = 150,
    second_words: int = 100,
) -> World:
    """Return the world of `entities` entities. Equal arguments give equal worlds.

    taken: lower-case words that no name may use. first_words, second_words: largest pool sizes; small worlds use fewer,
    so that every word stays frequent in train. Raises ValueError for shares that do not sum to one, a split too small
    to contain every kind, or pools too small for distinct names.
    """
    sizes = _split_sizes(entities, split_shares)
    first_count, second_count = _pool_sizes(entities, sizes["train"], first_words, second_words)
    first, second = names.draw_pools(first_count, second_count, taken, random.Random(f"{seed}/names"))
    titles = _balanced_titles(first, second, entities, random.Random(f"{seed}/titles"))
    rng = random.Random(f"{seed}/world")
    dates = _Dates(random.Random(f"{seed}/dates"))
    made: list[Entity] = []
    facts: list[Fact] = []
    start = 0
    for split in SPLITS:
        stop = start + sizes[split]
        kinds = _kinds(sizes[split], rng)
        by_kind: dict[str, list[int]] = {"person": [], **{k: [] for k in _KIND_SHARES}}
        for position, kind in enumerate(kinds, start):
            by_kind[kind].append(position)
        cluster = _cluster_facts(by_kind, dates, rng)
        women = _women(by_kind["person"], cluster, rng)
        made += [Entity(titles[i], kind, split, i in women) for i, kind in enumerate(kinds, start)]
        facts += cluster
        start = stop
    return _shuffled(made, facts, rng)


def _women(persons: Sequence[int], facts: Sequence[Fact], rng: random.Random) -> set[int]:
    """Return half of the persons, one of each couple."""
    couples = [(f.subject, f.object) for f in facts if f.relation.name == "marriage"]
    women = {couple[rng.randrange(2)] for couple in couples}
    married = {person for couple in couples for person in couple}
    return women | {p for p in persons if p not in married and rng.random() < 0.5}


def _split_sizes(entities: int, shares: Mapping[str, float]) -> dict[str, int]:
    if set(shares) - set(SPLITS) or min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"split_shares={dict(shares)}: expected shares of {', '.join(SPLITS)} that sum to 1")
    held_out = {s: round(entities * shares.get(s, 0)) for s in SPLITS[1:]}
    sizes = {"train": entities - sum(held_out.values()), **held_out}
    for split, size in sizes.items():
        if 0 < size < _SMALLEST_CLUSTER or (size == 0 and shares.get(split, 0) > 0):
            raise ValueError(
                f"entities={entities}: split {split!r} would have {size}, fewer than the {_SMALLEST_CLUSTER} that "
                "hold every kind; ask for more entities or another share"
            )
    return sizes


def _pool_sizes(entities: int, train: int, first_words: int, second_words: int) -> tuple[int, int]:
    if entities > first_words * second_words:
        raise ValueError(
            f"entities={entities}: {first_words} first words and {second_words} second words make only "
            f"{first_words * second_words} names; ask for fewer entities or raise first_words or second_words"
        )
    least = math.ceil(math.sqrt(1.5 * entities))
    first = min(first_words, max(least, train // _TITLES_PER_WORD))
    second = min(second_words, max(least, math.ceil(entities / first), train // _TITLES_PER_WORD))
    return max(first, math.ceil(entities / second)), second


def _balanced_titles(first: Sequence[str], second: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Return distinct two-word names, made in rounds. A round uses every first word once and second words evenly."""
    offsets = list(range(len(first)))
    rng.shuffle(offsets)
    rounds = list(range(len(second)))
    rng.shuffle(rounds)
    titles: list[str] = []
    for shift in rounds:
        block = [f"{word} {second[(offsets[i] + shift) % len(second)]}" for i, word in enumerate(first)]
        rng.shuffle(block)
        titles += block
        if len(titles) >= count:
            break
    return titles[:count]


def _kinds(size: int, rng: random.Random) -> list[str]:
    if size == 0:
        return []
    kinds = [kind for kind, share in _KIND_SHARES.items() for _ in range(max(1, round(size * share)))]
    kinds += ["person"] * (size - len(kinds))
    rng.shuffle(kinds)
    return kinds


def day(date: str) -> tuple[int, int, int]:
    """Return '12 May 1723' as (year, month, day), for comparing."""
    number, month, year = date.split()
    return int(year), MONTHS.index(month), int(number)


class _Dates:
    """A source of dates that are distinct as long as there are any left."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._used: set[str] = set()

    def draw(self) -> str:
        if len(self._used) >= len(_YEARS) * sum(_MONTH_DAYS):
            self._used.clear()
        while True:
            month = self._rng.randrange(12)
            day = 1 + self._rng.randrange(_MONTH_DAYS[month])
            date = f"{day} {MONTHS[month]} {self._rng.choice(_YEARS)}"
            if date not in self._used:
                self._used.add(date)
                return date


def _number(relation: Relation, rng: random.Random) -> str:
    """Return the number of a fact with its unit. Half of the headquarters facts state no population."""
    if relation.number == "kilometres":
        return f"{rng.randrange(12, 1000)} kilometres"
    if relation.number == "population" and rng.random() < 0.5:
        return f"population of {rng.randrange(10, 10000) * 100:,}"
    return ""


def _cluster_facts(by_kind: Mapping[str, list[int]], dates: _Dates, rng: random.Random) -> list[Fact]:
    """Return the facts of one split. Every relation is one-to-one and takes the entities with the fewest facts.

    Two kinds share at most one relation, so two entities share at most one fact.
    """
    degree = {i: 0 for members in by_kind.values() for i in members}

    def fewest(kind: str, count: int) -> list[int]:
        members = list(by_kind[kind])
        rng.shuffle(members)
        return sorted(members, key=lambda i: degree[i])[:count]

    facts: list[Fact] = []
    for relation in RELATIONS:
        count = min(len(by_kind[relation.subject]), len(by_kind[relation.object]))
        if relation.subject == relation.object:
            # Neighbours in the order of degree marry. A date makes up for the fact that the couples with fewer facts
            # lack.
            chosen = fewest(relation.subject, count)
            pairs = list(zip(chosen[0::2], chosen[1::2], strict=False))
        else:
            subjects, objects = fewest(relation.subject, count), fewest(relation.object, count)
            rng.shuffle(objects)
            pairs = list(zip(subjects, objects, strict=True))
        for subject, object_ in pairs:
            poor = relation.name == "marriage" and max(degree[subject], degree[object_]) < 2
            date = dates.draw() if relation.dated or poor else ""
            facts.append(Fact(relation, subject, object_, date, _number(relation, rng)))
            degree[subject] += 1
            degree[object_] += 1
    return facts


def _shuffled(entities: list[Entity], facts: list[Fact], rng: random.Random) -> World:
    """Return the world with its articles in random order, so that splits and kinds are mixed in the dump."""
    order = list(range(len(entities)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    facts = [dataclasses.replace(f, subject=place[f.subject], object=place[f.object]) for f in facts]
    facts_of: list[list[int]] = [[] for _ in entities]
    for index, fact in enumerate(facts):
        facts_of[fact.subject].append(index)
        facts_of[fact.object].append(index)
    return World([entities[i] for i in order], facts, facts_of)
