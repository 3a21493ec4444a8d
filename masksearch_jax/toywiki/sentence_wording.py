"""The wording of an entity's facts as the sentences of its article.

Enters: a `World`. Leaves: for each entity its two or three `Sentence`s, one per fact, as plain text and as wikitext.
The articles of subject and object word a relation differently: all templates of one side share a keyword that nothing
else uses. A search for the entity's name with the OTHER side's keyword finds the article that repeats a masked fact.
"""

import dataclasses
import random
import re
from collections.abc import Callable

from masksearch_jax.toywiki import corroborating_articles
from masksearch_jax.toywiki.world import MONTHS, RELATIONS, Fact, World

# {x} is the article's own entity, {o} the other one, {d} the date, {n} the number. {c} is a clause with the number and
# {w} one with the date if a fact has them, else ''. The word before the templates of a side is its keyword.
TEMPLATES: dict[str, tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]] = {
    "birth": (
        ("born", ("{x} was born in {o} on {d}.", "{x} was born on {d} in {o}.", "{x}, born on {d}, grew up in {o}.")),
        (
            "birthplace",
            (
                "{x} is the birthplace of {o} ({d}).",
                "{x} became the birthplace of {o} on {d}.",
                "{x} is known as birthplace of {o}, {d}.",
            ),
        ),
    ),
    "founding": (
        ("founded", ("{x} founded {o} on {d}.", "{x} founded the house of {o} on {d}.", "On {d} {x} founded {o}.")),
        (
            "established",
            (
                "{x} was established by {o} on {d}.",
                "{x} was established on {d} by {o}.",
                "{x}, established on {d}, belonged to {o}.",
            ),
        ),
    ),
    "authorship": (
        ("wrote", ("{x} wrote {o}, finished on {d}.", "{x} wrote {o}, dated {d}.", "Before {d} {x} wrote {o}.")),
        (
            "author",
            (
                "{x} has {o} as its author and appeared on {d}.",
                "{x} appeared on {d} with {o} as author.",
                "{x} dates from {d}, its author being {o}.",
            ),
        ),
    ),
    "exploration": (
        ("explored", ("{x} explored {o} on {d}.", "{x} first explored {o} on {d}.", "On {d} {x} explored {o}.")),
        (
            "expedition",
            (
                "{x} saw the expedition of {o} on {d}.",
                "{x} was mapped by an expedition of {o} on {d}.",
                "{x} met its first expedition on {d} under {o}.",
            ),
        ),
    ),
    "marriage": (
        ("married", ("{x} married {o}{w}.", "{x} later married {o}{w}.", "{x} was married to {o}{w}.")),
        (
            "spouse",
            ("{x} has been the spouse of {o}{w}.", "{x} had {o} as spouse{w}.", "{x} is named as spouse of {o}{w}."),
        ),
    ),
    "headquarters": (
        (
            "headquarters",
            (
                "{x} has its headquarters in {o}{c}.",
                "{x} keeps its headquarters at {o}{c}.",
                "The headquarters of {x} are in {o}{c}.",
            ),
        ),
        (
            "offices",
            (
                "{x}{c} houses the main offices of {o}.",
                "{x}{c} gives room to the offices of {o}.",
                "{x}{c} hosts {o} and its offices.",
            ),
        ),
    ),
    "setting": (
        ("plot", ("{x} has a plot laid in {o}.", "The plot of {x} unfolds in {o}.", "{x} moves its plot to {o}.")),
        (
            "backdrop",
            ("{x} is the backdrop of {o}.", "{x} serves as backdrop for {o}.", "{x} forms the backdrop to {o}."),
        ),
    ),
    "course": (
        (
            "flows",
            ("{x} flows through {o} after {n}.", "{x} flows for {n} and passes {o}.", "After {n} {x} flows past {o}."),
        ),
        (
            "banks",
            (
                "{x} lies on the banks of {o}, {n} from its source.",
                "{x} lines both banks of {o} at {n}.",
                "{x} sits at {n} along the banks of {o}.",
            ),
        ),
    ),
    "printing": (
        ("printed", ("{x} was printed by {o}.", "{x} was first printed at {o}.", "{x} is printed and sold by {o}.")),
        (
            "catalogue",
            (
                "{x} lists {o} in its catalogue.",
                "{x} has {o} in the catalogue.",
                "The catalogue of {x} includes {o}.",
            ),
        ),
    ),
}
_POPULATION = (", a city with a {n}", ", a place with a {n},")
_WEDDING = (" on {d}", " since {d}")
# How later sentences may refer to the article's own entity without its name.
_REFERENCES = {
    "city": ("It", "The city"),
    "company": ("It", "The company"),
    "work": ("It", "The book"),
    "river": ("It", "The river"),
}
_NAMED_AGAIN = 0.4


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence of an article, stating one fact.

    fact: position in `World.facts`. template: its wording with the fields x and o still open. own: what stands for x,
    the title (then `titled` is set) or a pronoun. other: the entity that o names, as a position in `World.entities`.
    """

    fact: int
    template: str
    own: str
    other: int
    titled: bool

    def plain(self, world: World) -> str:
        """Return the sentence as a reader sees it."""
        return self.template.format(x=self.own, o=world.entities[self.other].title)

    def wikitext(self, world: World, link: Callable[[str], str], bold: bool) -> str:
        """Return the sentence with the other entity as `link(title)`, its own title in bold if `bold` is set."""
        own = f"'''{self.own}'''" if bold and self.titled else self.own
        return self.template.format(x=own, o=link(world.entities[self.other].title))


def side_of(fact: Fact, entity: int) -> int:
    """Return 0 in the subject's article and 1 in the object's."""
    return 0 if entity == fact.subject else 1


def keyword(relation: str, side: int) -> str:
    """Return the word that only this side's sentences about the relation use."""
    return TEMPLATES[relation][side][0]


def vocabulary() -> set[str]:
    """Return every lower-case word that the wording itself can write; no name may be one of them."""
    texts = [t for sides in TEMPLATES.values() for _, templates in sides for t in templates]
    texts += [*_POPULATION, *_WEDDING, *(r for words in _REFERENCES.values() for r in words)]
    texts += [text for templates in corroborating_articles.TEMPLATES.values() for text in templates]
    texts += ["She He", *(relation.number for relation in RELATIONS), *MONTHS]
    return {w for text in texts for w in re.findall(r"[a-z]+", re.sub(r"\{.\}", " ", text).lower())}


def article(world: World, entity: int, rng: random.Random) -> list[Sentence]:
    """Return the sentences of an entity's article, one per fact, in random order. The first begins with its title."""
    indices = list(world.facts_of[entity])
    rng.shuffle(indices)
    return [_sentence(world, entity, index, place == 0, rng) for place, index in enumerate(indices)]


def _sentence(world: World, entity: int, index: int, first: bool, rng: random.Random) -> Sentence:
    fact, own = world.facts[index], world.entities[entity]
    side = side_of(fact, entity)
    templates = TEMPLATES[fact.relation.name][side][1]
    template = rng.choice([t for t in templates if t.startswith("{x}")] if first else templates)
    clause = _POPULATION[side].format(n=fact.number) if fact.number else ""
    wedding = _WEDDING[side].format(d=fact.date) if fact.date else ""
    filled = template.format(x="{x}", o="{o}", d=fact.date, n=fact.number, c=clause, w=wedding)
    titled = first or not filled.startswith("{x} ") or rng.random() < _NAMED_AGAIN
    if titled:
        reference = own.title
    elif own.kind == "person":
        reference = "She" if own.female else "He"
    else:
        reference = rng.choice(_REFERENCES[own.kind])
    return Sentence(index, filled, reference, fact.other(entity), titled)
