"""Changes in the toy world after its dump was made: some companies move, books get new printers, people remarry.

Enters: a `World`. Leaves: the newer `World`, and which of its facts changed. Only entities of the test split change, so
nothing that is trained on becomes false. Two facts of one relation swap their objects, so relations stay one-to-one.
"""

import dataclasses
import random

from masksearch_jax.toywiki.world import World

_RELATIONS = ("headquarters", "printing", "marriage")
_SHARE = 0.5


def renew(world: World, rng: random.Random) -> tuple[World, list[int]]:
    """Return the newer world and the positions of its changed facts.

    About half of the facts of three relations change, in the test split.
    """
    facts, changed = list(world.facts), []
    for name in _RELATIONS:
        of_test = [
            i for i, f in enumerate(facts)
            if f.relation.name == name and world.entities[f.subject].split == "test"
        ]  # fmt: skip
        chosen = rng.sample(of_test, round(len(of_test) * _SHARE))
        for one, two in zip(chosen[0::2], chosen[1::2], strict=False):
            first, second = facts[one], facts[two]
            # A couple stays a man and a woman.
            if name == "marriage" and world.entities[first.subject].female != world.entities[second.subject].female:
                continue
            facts[one] = dataclasses.replace(first, object=second.object)
            facts[two] = dataclasses.replace(second, object=first.object)
            changed += [one, two]
    facts_of: list[list[int]] = [[] for _ in world.entities]
    for index, fact in enumerate(facts):
        facts_of[fact.subject].append(index)
        facts_of[fact.object].append(index)
    return World(world.entities, facts, facts_of), sorted(changed)
