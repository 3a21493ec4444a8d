"""The toy's edition of FanOutQA: questions that need one article for each of several entities.

Enters: the world and the entities to ask about. Leaves: entries of the official format, each with its tree of
sub-questions and the article behind each step.
"""

import random
from collections.abc import Iterator

from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.toywiki import bridge_questions
from masksearch_jax.toywiki.world import World, day

Entry = JsonObject
# {(relation, side): [(entity, fact)]}, as bridge_questions.ends returns it.
Ends = dict[tuple[str, int], list[tuple[int, int]]]


def entries(world: World, members: list[int], rng: random.Random) -> Iterator[Entry]:
    """Yield entries of FanOutQA: of ten, seven ask for a mapping, two for a list, one for a count."""
    ends = bridge_questions.ends(world, members)
    for number, kind in enumerate(["map", "map", "list", "map", "map", "count", "map", "map", "list", "map"] * 1000):
        if kind == "list":
            made = _of_a_hub(world, rng.choice(members), rng)
        else:
            made = _of_each(world, ends, rng) if kind == "map" else _counted(world, ends, rng)
        if made:
            text, answer, steps = made
            yield {
                "id": f"toyfan{number:06d}", "question": text, "decomposition": steps, "answer": answer,
                "categories": ["Toy"],
            }  # fmt: skip


def _of_each(world: World, ends: Ends, rng: random.Random) -> tuple[str, Json, list[Entry]] | None:
    """Return a question for one thing about each of three entities of a kind. Its answer is {entity: thing}."""
    pool = ends[rng.choice(sorted(ends))]
    if len(pool) < 3:
        return None
    chosen = rng.sample(pool, 3)
    named = [world.entities[i].title for i, _ in chosen]
    phrase = bridge_questions.noun(world.facts[chosen[0][1]], chosen[0][0], "each of these")
    answer = {world.entities[i].title: world.entities[world.facts[fact].other(i)].title for i, fact in chosen}
    steps = [_step(world, [i, world.facts[fact].other(i)], [fact]) for i, fact in chosen]
    return f"What is {phrase}: {', '.join(named)}?", answer, steps


def _of_a_hub(world: World, hub: int, rng: random.Random) -> tuple[str, Json, list[Entry]] | None:
    """Return a question for the ends of two or three chains of two facts that leave one entity; a list answers it."""
    chains = []
    for fact in world.facts_of[hub]:
        middle = world.facts[fact].other(hub)
        onward = [f for f in world.facts_of[middle] if f != fact and world.facts[f].other(middle) != hub]
        if onward:
            last = rng.choice(onward)
            chains.append(([hub, middle, world.facts[last].other(middle)], [fact, last]))
    goals = [world.entities[entities[-1]].title for entities, _ in chains]
    if len(chains) < 2 or len(set(goals)) < len(goals):
        return None
    phrases = [bridge_questions.chain(world, entities, facts) for entities, facts in chains]
    text = f"Name {', '.join(phrases[:-1])} and {phrases[-1]}."
    return text, goals, [_step(world, entities, facts) for entities, facts in chains]


def _counted(world: World, ends: Ends, rng: random.Random) -> tuple[str, Json, list[Entry]] | None:
    """Return a question for how many of four people were born before a year."""
    pool = ends["birth", 0]
    if len(pool) < 4:
        return None
    chosen = rng.sample(pool, 4)
    year = rng.randrange(1200, 1801, 100)
    earlier = sum(day(world.facts[fact].date)[0] < year for _, fact in chosen)
    named = ", ".join(world.entities[i].title for i, _ in chosen)
    steps = []
    for i, fact in chosen:
        step = _step(world, [i, world.facts[fact].other(i)], [fact])
        text = bridge_questions.date_question(world.facts[fact], i, world.entities[i].title)
        steps.append({**step, "question": text, "answer": world.facts[fact].date})
    return f"How many of these were born before {year}: {named}?", earlier, steps


def _step(world: World, entities: list[int], facts: list[int]) -> Entry:
    """Return a sub-question with its evidence: the article before the answer."""
    title = world.entities[entities[-2]].title
    url = f"https://toy.example/wiki/{title.replace(' ', '_')}"
    return {
        "id": f"{facts[-1]:016x}",
        "question": bridge_questions.name_question(world, entities, facts),
        "decomposition": [_step(world, entities[:-1], facts[:-1])] if len(facts) > 1 else [],
        "answer": world.entities[entities[-1]].title,
        "depends_on": [],
        "evidence": {"pageid": entities[-2], "revid": entities[-2], "title": title, "url": url},
    }
