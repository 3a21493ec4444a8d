"""Bridge questions of two and three hops over the toy world, in the HotpotQA official format.

Enters: a `World` and its article sentences. Leaves: a list of question maps (_id, question, answer, type, level,
supporting_facts, context) with the key 'split' added. Every question names one entity A and asks for what is found by
way of the entities between A and the answer:

* level 'medium': A - B - answer. Supporting articles: A and B.
* level 'hard': A - B - C - answer. Supporting articles: A (for B) and C (for B and the answer). Every fact is stated in
  two articles, so B's article alone would do for 'medium'; here no single article contains the chain.

An answer is an entity or, where the last fact carries one, its date.
"""

import collections
import random
from collections.abc import Iterable

from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.toywiki import sentence_wording
from masksearch_jax.toywiki.sentence_wording import Sentence
from masksearch_jax.toywiki.world import Fact, World

_PER_ENTITY = 0.5
_MOST_PER_SPLIT = 2000
_CONTEXT_ARTICLES = 10
_TRIES = 20
_DATE_SHARE = 0.3

# Noun phrases for the subject of a relation, given its object as {o}, and for the object, given its subject as {o}.
_NOUNS = {
    "birth": ("the person born in {o}", "the birthplace of {o}"),
    "founding": ("the founder of {o}", "the company founded by {o}"),
    "authorship": ("the author of {o}", "the book written by {o}"),
    "exploration": ("the explorer of {o}", "the river explored by {o}"),
    "marriage": ("the spouse of {o}", "the spouse of {o}"),
    "headquarters": ("the company based in {o}", "the home city of {o}"),
    "setting": ("the book set in {o}", "the setting of {o}"),
    "course": ("the river at {o}", "the city on {o}"),
    "printing": ("the book printed by {o}", "the printer of {o}"),
}
# Questions for the date of the last fact, with a noun phrase for its subject {s} or for its object {o}.
_DATES = {
    "marriage": ("When did {s} marry?", "When did {o} marry?"),
    "birth": ("When was {s} born?", "When was a person born in {o}?"),
    "founding": ("When did {s} found a company?", "When was {o} established?"),
    "authorship": ("When did {s} complete a book?", "When did {o} appear?"),
    "exploration": ("When did {s} explore a river?", "When was {o} first explored?"),
}


def draw_questions(world: World, articles: list[list[Sentence]], rng: random.Random) -> list[JsonObject]:
    """Return the questions of all splits. Every answer is the only one, since relations are one-to-one.

    There are half as many questions as the split has entities, up to a limit. A cluster of a dozen entities may be too
    dense for any question.
    """
    found: list[JsonObject] = []
    members: dict[str, list[int]] = {}
    for i, entity in enumerate(world.entities):
        members.setdefault(entity.split, []).append(i)
    for split in sorted(members):
        wanted = min(_MOST_PER_SPLIT, max(1, int(len(members[split]) * _PER_ENTITY)))
        starts = rng.sample(members[split], wanted)
        for number, start in enumerate(starts):
            question = bridge(world, articles, members[split], start, 3 - number % 2, rng)
            if question is not None:
                found.append({"_id": f"toy-{split}-{number}", "split": split, **question})
    return found


def path(world: World, start: int, hops: int, rng: random.Random) -> tuple[list[int], list[int]] | None:
    """Return (entities, facts) of a path of `hops` facts from `start`, or None if a few tries found none.

    Only neighbours on the path share a fact, so there is no shorter path, and no article contains more of it than
    needed.
    """
    for _ in range(_TRIES):
        entities, passed = [start], {start}
        facts: list[int] = []
        while len(facts) < hops:
            at = entities[-1]
            steps = [f for f in world.facts_of[at] if world.facts[f].other(at) not in passed]
            if not steps:
                break
            passed |= {world.facts[f].other(at) for f in world.facts_of[at]}
            facts.append(rng.choice(steps))
            entities.append(world.facts[facts[-1]].other(at))
        if len(facts) == hops:
            return entities, facts
    return None


def bridge(
    world: World, articles: list[list[Sentence]], members: list[int], start: int, hops: int, rng: random.Random
) -> JsonObject | None:
    """Return a question of `hops` facts from `start`, without id and split, or None if there is no such path."""
    found = path(world, start, hops, rng)
    if found is None:
        return None
    entities, facts = found
    last, second = world.facts[facts[-1]], entities[-2]
    if last.date and rng.random() < _DATE_SHARE:
        phrase = chain(world, entities[:-1], facts[:-1])
        text, answer = date_question(last, second, phrase), last.date
    else:
        text, answer = name_question(world, entities, facts), world.entities[entities[-1]].title
    supporting = [[world.entities[start].title, place(articles[start], facts[0])]]
    supporting += [[world.entities[second].title, place(articles[second], f)] for f in facts[1:]]
    return {
        "question": text,
        "answer": answer,
        "type": "bridge",
        "level": "medium" if hops == 2 else "hard",
        "supporting_facts": supporting,
        "context": context(world, articles, members, [start, second], rng),
    }


def chain(world: World, entities: list[int], facts: list[int]) -> str:
    """Return a phrase for the last entity of a path that names only the first entity and goes through all others."""
    phrase = world.entities[entities[0]].title
    for at, fact in zip(entities, facts, strict=False):
        phrase = noun(world.facts[fact], at, phrase)
    return phrase


def name_question(world: World, entities: list[int], facts: list[int]) -> str:
    """Return the question for the last entity of a path."""
    asked = "Who" if world.entities[entities[-1]].kind == "person" else "What"
    return f"{asked} is {chain(world, entities, facts)}?"


def date_question(fact: Fact, given: int, phrase: str) -> str:
    """Return the question for the date of a fact. phrase: stands for the entity `given`, one end of the fact."""
    return _DATES[fact.relation.name][sentence_wording.side_of(fact, given)].format(s=phrase, o=phrase)


def ends(world: World, members: Iterable[int]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Return {(relation, side): [(entity on that side, fact)]} for the given entities."""
    found = collections.defaultdict(list)
    for i in members:
        for fact in world.facts_of[i]:
            found[world.facts[fact].relation.name, sentence_wording.side_of(world.facts[fact], i)].append((i, fact))
    return found


def noun(fact: Fact, given: int, phrase: str) -> str:
    """Return a phrase for the other end of a fact. phrase: stands for the entity `given`, this end."""
    return _NOUNS[fact.relation.name][1 - sentence_wording.side_of(fact, given)].replace("{o}", phrase)


def place(sentences: list[Sentence], fact: int) -> int:
    """Return the position of the sentence that states a fact."""
    return next(position for position, s in enumerate(sentences) if s.fact == fact)


def context(
    world: World, articles: list[list[Sentence]], members: list[int], wanted: list[int], rng: random.Random
) -> list[list[Json]]:
    """Return the supporting articles and others of the split, shuffled, as [title, sentences with their spaces]."""
    others = [i for i in rng.sample(members, min(len(members), _CONTEXT_ARTICLES + 2)) if i not in wanted]
    chosen = wanted + others[: _CONTEXT_ARTICLES - len(wanted)]
    rng.shuffle(chosen)
    return [
        [world.entities[i].title, [" " * (p > 0) + s.plain(world) for p, s in enumerate(articles[i])]] for i in chosen
    ]
