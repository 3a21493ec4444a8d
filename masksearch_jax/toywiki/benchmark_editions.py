"""The toy's editions of six benchmarks, in official formats and file names, over entities of the test split alone.

Enters: the world and its articles, the newer world and its changed facts. Leaves: a folder of files. Each edition asks
what its original asks:

* HotpotQA: two facts in a row (stage II trains on questions of other splits, which ask for two or three).
* FanOutQA: one thing about each of several entities, as a mapping; several chains, as a list; a count.
* MuSiQue: three and four facts in a row, with decomposition and aliases.
* 2WikiMultiHopQA: which of two entities, or of the people behind them, came first; aliases in id_aliases.json.
* Bamboogle: two facts in a row whose relations occur together least often.
* FreshQA: facts that changed after the dump was made, and some that did not.
"""

import collections
import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.toywiki import bridge_questions, fan_out, names, sentence_wording
from masksearch_jax.toywiki.sentence_wording import Sentence
from masksearch_jax.toywiki.world import World, day

_FRESH_COLUMNS = (
    "id", "split", "question", "effective_year", "next_review", "false_premise", "num_hops", "fact_type", "source",
    *(f"answer_{number}" for number in range(10)), "note",
)  # fmt: skip
# Questions which of two came first, by the relation that dates them and the side asked for: 0 its subject, 1 its
# object.
_FIRST = {
    ("birth", 0): "Who was born first, {a} or {b}?",
    ("founding", 1): "Which company was established first, {a} or {b}?",
    ("authorship", 1): "Which book appeared first, {a} or {b}?",
    ("exploration", 1): "Which river was first explored, {a} or {b}?",
}
# The same questions about the person behind each entity, by the relation that leads to the person.
_FIRST_BY = {
    "founding": "Which company was established by the person born first, {a} or {b}?",
    "authorship": "Which book was written by the person born first, {a} or {b}?",
    "exploration": "Which river was explored by the person born first, {a} or {b}?",
}

Entry = JsonObject
Chain = tuple[list[int], list[int]]


def write(
    folder: Path, world: World, articles: list[list[Sentence]], newer: World, changed: list[int], count: int, seed: int
) -> dict[str, Path]:
    """Write up to `count` questions of each edition into `folder`; return {benchmark: file}, without empty editions."""
    members = [i for i, entity in enumerate(world.entities) if entity.split == "test"]
    if not members:
        return {}
    editions: dict[str, tuple[str, Callable[[list[Entry]], str], Callable[[random.Random], Iterator[Entry]]]] = {
        "hotpotqa": ("hotpot_dev_distractor_v1.json", _json, lambda rng: two_hops(world, articles, members, rng)),
        "fanoutqa": ("fanout-final-dev.json", _json, lambda rng: fan_out.entries(world, members, rng)),
        "musique": ("musique_ans_v1.0_dev.jsonl", _jsonl, lambda rng: long_chains(world, articles, members, rng)),
        "two_wiki": ("2wiki/dev.json", _json, lambda rng: comparisons(world, articles, members, rng)),
        "bamboogle": ("bamboogle.csv", _csv, lambda rng: rare_chains(world, members, rng)),
        "freshqa": ("freshqa.csv", _csv, lambda rng: changed_facts(newer, members, set(changed), rng)),
    }
    files = {}
    for name, (file, form, edition) in editions.items():
        found = _first_distinct(edition(random.Random(f"{seed}/{name}")), count)
        if found:
            files[name] = folder / file
            files[name].parent.mkdir(parents=True, exist_ok=True)
            files[name].write_text(form(found), encoding="utf-8", newline="\n")
    if "two_wiki" in files:
        titles = {f"Q{i}": world.entities[i].title for i in members}
        rows = [{"Q_id": id, "aliases": [names.alias(title)], "demonyms": []} for id, title in titles.items()]
        files["two_wiki"].with_name("id_aliases.json").write_text(_jsonl(rows), encoding="utf-8", newline="\n")
    return files


# --- The editions ----------------------------------------------------------------------------------------------------


def two_hops(world: World, articles: list[list[Sentence]], members: list[int], rng: random.Random) -> Iterator[Entry]:
    """Yield entries of HotpotQA: bridge questions of two facts."""
    for number, start in enumerate(_shuffled(members, rng)):
        question = bridge_questions.bridge(world, articles, members, start, 2, rng)
        if question:
            yield {"_id": f"toy-hotpotqa-{number}", **question}


def long_chains(
    world: World, articles: list[list[Sentence]], members: list[int], rng: random.Random
) -> Iterator[Entry]:
    """Yield entries of MuSiQue: three and four facts in a row in turn, each step with the paragraph that states it."""
    for number, start in enumerate(_shuffled(members, rng)):
        hops = 3 + number % 2
        found = bridge_questions.path(world, start, hops, rng)
        if found is None:
            continue
        entities, facts = found
        context = bridge_questions.context(world, articles, members, entities[:-1], rng)
        titles = [title for title, _ in context]
        steps = []
        for step, (at, fact, goal) in enumerate(zip(entities, facts, entities[1:], strict=False), 1):
            given = f"#{step - 1}" if step > 1 else world.entities[at].title
            steps.append({
                "id": step,
                "question": bridge_questions.noun(world.facts[fact], at, given),
                "answer": world.entities[goal].title,
                "paragraph_support_idx": titles.index(world.entities[at].title),
            })  # fmt: skip
        supporting = {world.entities[at].title for at in entities[:-1]}
        answer = world.entities[entities[-1]].title
        yield {
            "id": f"{hops}hop1__toy_{number}",
            "paragraphs": [
                {"idx": i, "title": title, "paragraph_text": "".join(text), "is_supporting": title in supporting}
                for i, (title, text) in enumerate(context)
            ],
            "question": bridge_questions.name_question(world, entities, facts),
            "question_decomposition": steps,
            "answer": answer,
            "answer_aliases": [names.alias(answer)],
            "answerable": True,
        }


def comparisons(
    world: World, articles: list[list[Sentence]], members: list[int], rng: random.Random
) -> Iterator[Entry]:
    """Yield entries of 2WikiMultiHopQA, which alternately compare two entities and the people behind two entities."""
    ends = bridge_questions.ends(world, members)
    birth = {i: fact for i, fact in ends["birth", 0]}
    behind = {
        name: [(i, fact) for i, fact in ends[name, 1] if world.facts[fact].subject in birth] for name in _FIRST_BY
    }
    for number in range(20 * len(members)):
        bridged = number % 2 == 1
        relation, side = (rng.choice(list(_FIRST_BY)), 1) if bridged else rng.choice(list(_FIRST))
        pool = behind[relation] if bridged else ends[relation, side]
        if len(pool) < 2:
            continue
        pair = rng.sample(pool, 2)
        chains = [[fact, birth[world.facts[fact].subject]] if bridged else [fact] for _, fact in pair]
        dates = [world.facts[chain[-1]].date for chain in chains]
        if day(dates[0]) == day(dates[1]):
            continue
        first = min((0, 1), key=lambda place: day(dates[place]))
        template = _FIRST_BY[relation] if bridged else _FIRST[relation, side]
        named = [world.entities[i].title for i, _ in pair]
        holders = [[i, world.facts[fact].subject] if bridged else [i] for i, fact in pair]
        supporting, evidences = [], []
        for place, chain in enumerate(chains):
            for holder, fact in zip(holders[place], chain, strict=True):
                title = world.entities[holder].title
                supporting.append([title, bridge_questions.place(articles[holder], fact)])
                last = fact == chain[-1]
                goal = dates[place] if last else world.entities[world.facts[fact].other(holder)].title
                evidences.append([title, "date" if last else relation, goal])
        yield {
            "_id": f"toy-2wiki-{number}",
            "type": "bridge_comparison" if bridged else "comparison",
            "question": template.format(a=named[0], b=named[1]),
            "context": bridge_questions.context(world, articles, members, [*dict.fromkeys(sum(holders, []))], rng),
            "entity_ids": "_".join(f"Q{i}" for i in sum(holders, [])),
            "supporting_facts": supporting,
            "evidences": evidences,
            "answer": named[first],
            "evidences_id": [],
            "answer_id": f"Q{pair[first][0]}",
        }


def rare_chains(world: World, members: list[int], rng: random.Random) -> Iterator[Entry]:
    """Yield rows of Bamboogle: chains of two facts, those with the rarest pair of relations among all chains first."""

    def kind(found: Chain) -> tuple[str, ...]:
        entities, facts = found
        sides = (sentence_wording.side_of(world.facts[fact], at) for at, fact in zip(entities, facts, strict=False))
        return tuple(f"{world.facts[fact].relation.name}/{side}" for fact, side in zip(facts, sides, strict=True))

    found = [chain for start in _shuffled(members, rng) if (chain := bridge_questions.path(world, start, 2, rng))]
    share = collections.Counter(map(kind, found))
    for chain in sorted(found, key=lambda chain: share[kind(chain)]):
        answer = world.entities[chain[0][-1]].title
        yield {"Question": bridge_questions.name_question(world, *chain), "Answer": answer}


def changed_facts(newer: World, members: list[int], changed: set[int], rng: random.Random) -> Iterator[Entry]:
    """Yield rows of FreshQA about the newer world.

    Of five rows, two ask for a changed fact, two for a chain of two facts with a changed one, one for what never
    changed.
    """
    starts = {1: _shuffled(members, rng), 2: _shuffled(members, rng), 3: _shuffled(members, rng)}
    number = 0
    for wanted in (1, 2, 1, 2, 3) * len(members):
        while starts[wanted]:
            found = bridge_questions.path(newer, starts[wanted].pop(), 1 if wanted == 1 else 2, rng)
            if found and bool(changed & set(found[1])) == (wanted != 3):
                break
        else:
            continue
        entities, facts = found
        answer = newer.entities[entities[-1]].title
        yield dict.fromkeys(_FRESH_COLUMNS, "") | {
            "id": str(number), "split": "TEST", "question": bridge_questions.name_question(newer, entities, facts),
            "effective_year": "before 2022" if wanted == 3 else "2024", "next_review": "occasionally",
            "false_premise": "FALSE", "num_hops": "one-hop" if wanted == 1 else "multi-hop",
            "fact_type": "never-changing" if wanted == 3 else "slow-changing",
            "source": f"https://toy.example/wiki/{answer.replace(' ', '_')}",
            "answer_0": answer, "answer_1": names.alias(answer),
        }  # fmt: skip
        number += 1


# --- Helpers ---------------------------------------------------------------------------------------------------------


def _first_distinct(entries: Iterator[Entry], count: int) -> list[Entry]:
    """Return the first `count` entries, without those whose question came before."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if len(found) == count:
            break
        found.setdefault(entry.get("question") or entry["Question"], entry)
    return list(found.values())


def _shuffled(members: list[int], rng: random.Random) -> list[int]:
    return rng.sample(members, len(members))


def _json(entries: list[Entry]) -> str:
    return json.dumps(entries, ensure_ascii=False, indent=0) + "\n"


def _jsonl(entries: list[Entry]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _csv(entries: list[Entry]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(entries[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return out.getvalue()
