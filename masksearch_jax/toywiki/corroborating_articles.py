"""Corroborating articles ("Annals"): each is about no entity and states a few facts, for which it is a third article.

Enters: a `World`, the share of its facts. Leaves: `Volume`s of one split each, and their sentences. In the articles of
its two ends, a fact is found under a title that is half of it, so a policy can fill most masks with the title of what
it found. Under the title of a volume it cannot; and what is masked in a volume is found in the articles that it names.
Volumes word a relation differently from both sides.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator

from masksearch_jax.toywiki.world import SPLITS, World

_FACTS = 3  # in a volume
# {s} is the subject, {o} the object, {d} the date, {n} the number. {w} is a clause with the date and {c} one with the
# number if a fact has one, else ''.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "birth": ("The birth of {s} in {o} fell on {d}.", "On {d} came the birth of {s} at {o}."),
    "founding": ("The foundation of {o} by {s} fell on {d}.", "On {d} came the foundation of {o} under {s}."),
    "authorship": ("The manuscript of {o} left the desk of {s} on {d}.", "On {d} {s} closed the manuscript of {o}."),
    "exploration": ("The voyage of {s} along {o} began on {d}.", "On {d} {s} set out for a voyage along {o}."),
    "marriage": ("The wedding of {s} and {o}{w} was a feast.", "Many saw the wedding of {s} and {o}{w}."),
    "headquarters": ("The seat of {s} moved to {o}{c}.", "{o}{c} became the seat of {s}."),
    "setting": ("The story of {s} takes place in {o}.", "{o} is where the story of {s} begins."),
    "course": ("The waters of {s} reach {o} after {n}.", "After {n} the waters of {s} reach {o}."),
    "printing": ("The sheets of {s} came from the press of {o}.", "From the press of {o} came the sheets of {s}."),
}


@dataclasses.dataclass(frozen=True)
class Volume:
    """One corroborating article.

    title: names nothing of the world. facts: positions in `World.facts`, all of one split. wordings: for each fact, the
    position of its wording in TEMPLATES.
    """

    title: str
    split: str
    facts: tuple[int, ...]
    wordings: tuple[int, ...]

    def text(self, world: World, name: Callable[[str], str] = str) -> str:
        """Return the sentences, with each entity as `name(title)`.

        For a newer world, they state its facts in the same words.
        """
        return " ".join(self._sentences(world, name))

    def _sentences(self, world: World, name: Callable[[str], str]) -> Iterator[str]:
        for index, wording in zip(self.facts, self.wordings, strict=True):
            fact = world.facts[index]
            subject, object_ = (name(world.entities[end].title) for end in (fact.subject, fact.object))
            yield TEMPLATES[fact.relation.name][wording].format(
                s=subject, o=object_, d=fact.date, n=fact.number,
                w=f" on {fact.date}" if fact.date else "", c=f", with a {fact.number}," if fact.number else "",
            )  # fmt: skip


def volumes(world: World, share: float, rng: random.Random) -> list[Volume]:
    """Return the volumes that state `share` of the facts of each split, in random order.

    Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"corroborating={share}: a share of the toy's facts is needed, from 0 to 1")
    made: list[Volume] = []
    for split in SPLITS:
        facts = [i for i, fact in enumerate(world.facts) if world.entities[fact.subject].split == split]
        chosen = rng.sample(facts, round(len(facts) * share))
        for start in range(0, len(chosen), _FACTS):
            own = tuple(chosen[start : start + _FACTS])
            words = tuple(rng.randrange(len(TEMPLATES[world.facts[i].relation.name])) for i in own)
            made.append(Volume(f"Annals, volume {len(made) + 1}", split, own, words))
    rng.shuffle(made)
    return made
