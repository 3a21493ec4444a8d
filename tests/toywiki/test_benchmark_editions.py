"""The toy's editions of the benchmarks: read by the readers of the official formats, checked against the dumps' own
infoboxes, which this test reads itself."""

import bz2
import json
import re
from xml.etree import ElementTree

import pytest

from masksearch_jax import toywiki
from masksearch_jax.evals import benchmarks

XML = "{http://www.mediawiki.org/xml/export-0.11/}"
NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
MONTHS = "January February March April May June July August September October November December".split()
COUNT = 60


def facts_of(dump):
    """{title: [(keyword, other entity, date)]} of the articles' infoboxes."""
    found = {}
    for page in ElementTree.fromstring(bz2.decompress(dump.read_bytes())).iter(f"{XML}page"):
        text = page.findtext(f"{XML}revision/{XML}text")
        if page.findtext(f"{XML}ns") == "0" and text.startswith("{{Infobox"):
            dates = dict(re.findall(r"^\| (\w+)_date = (.+)$", text, re.MULTILINE))
            rows = re.findall(r"^\| (\w+) = \[\[(.+)\]\]$", text, re.MULTILINE)
            found[page.findtext(f"{XML}title")] = [(key, other, dates.get(key, "")) for key, other in rows]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    paths = toywiki.generate(folder, entities=1000, seed=3)
    return paths, toywiki.generate_benchmarks(folder, COUNT, entities=1000, seed=3)


@pytest.fixture(scope="module")
def facts(made):
    return facts_of(made[0].dump)


@pytest.fixture(scope="module")
def newer(made, facts):
    return facts | facts_of(made[1].newer_dump)


@pytest.fixture(scope="module")
def asked(made):
    return {name: benchmarks.read(name, file) for name, file in made[1].files.items()}


def links(facts, title):
    return {other for _, other, _ in facts[title]}


def reachable(facts, title, hops):
    """What stands exactly `hops` facts from a title, without going back at once: entities, and dates on the way."""
    found = {(title, None)}
    for _ in range(hops):
        found = {(other, at) for at, before in found for other in links(facts, at) - {before}}
    return {at for at, _ in found}


def test_six_editions_of_test_entities_alone(made, asked):
    splits = json.loads(made[0].splits.read_text())
    assert list(asked) == ["hotpotqa", "fanoutqa", "musique", "two_wiki", "bamboogle", "freshqa"]
    for name, questions in asked.items():
        assert len(questions) == COUNT and len({q.question for q in questions}) == COUNT, name
        for question in questions:
            named = NAME.findall(question.question.split(maxsplit=1)[1]) + question.supporting_titles
            assert named and {splits[title] for title in named if title in splits} == {"test"}, question
            assert all(title in splits for title in question.supporting_titles)


def test_two_hops(asked, facts):
    for question in asked["hotpotqa"]:
        start, middle = question.supporting_titles
        answer = question.answers[0]
        assert middle in links(facts, start) and start in question.question and middle not in question.question
        assert answer in links(facts, middle) or answer in {date for _, _, date in facts[middle]}
        assert answer not in links(facts, start) | {date for _, _, date in facts[start]}


def test_chains_of_three_and_four(made, asked, facts):
    entries = [json.loads(line) for line in made[1].files["musique"].read_text().splitlines()]
    assert {q.details["hops"] for q in asked["musique"]} == {"3", "4"}
    for entry, question in zip(entries, asked["musique"], strict=True):
        at = next(title for title in NAME.findall(entry["question"]) if title in facts)
        for number, step in enumerate(entry["question_decomposition"], 1):
            paragraph = entry["paragraphs"][step["paragraph_support_idx"]]
            assert step["id"] == number and paragraph["title"] == at and paragraph["is_supporting"]
            assert step["answer"] in links(facts, at) and step["answer"] in paragraph["paragraph_text"]
            assert (f"#{number - 1}" in step["question"]) == (number > 1)
            at = step["answer"]
        first, second = at.split()
        assert question.answers == [at, f"{second}, {first}"] and len(question.supporting_titles) == len(
            entry["question_decomposition"]
        )


def test_comparisons(made, asked, facts):
    def day(date):
        day, month, year = date.split()
        return int(year), MONTHS.index(month), int(day)

    entries = json.loads(made[1].files["two_wiki"].read_text())
    assert {entry["type"] for entry in entries} == {"comparison", "bridge_comparison"}
    for entry, question in zip(entries, asked["two_wiki"], strict=True):
        dated = [row for row in entry["evidences"] if row[1] == "date"]
        assert len(dated) == 2 and all(date in {d for _, _, d in facts[title]} for title, _, date in dated)
        named = [title for title in NAME.findall(entry["question"].split(maxsplit=1)[1]) if title in facts]
        earlier = named[min((0, 1), key=lambda place: day(dated[place][2]))]
        if entry["type"] == "bridge_comparison":
            assert all(person in links(facts, title) for title, (person, _, _) in zip(named, dated, strict=True))
        assert earlier == question.answers[0] and len(question.answers) == 2  # the alias file is found


def test_fan_out(asked, facts):
    kinds = [question.details["answer"] for question in asked["fanoutqa"]]
    assert {kind: kinds.count(kind) > 3 for kind in set(kinds)} == {"dict": True, "list": True, "int": True}
    for question in asked["fanoutqa"]:
        assert len(question.supporting_titles) > 1
        if isinstance(question.reference, dict):
            assert len(question.reference) == 3 and all(key in question.question for key in question.reference)
            assert all(value in links(facts, key) for key, value in question.reference.items())
        elif isinstance(question.reference, list):
            (hub,) = {title for title in NAME.findall(question.question) if title in facts}
            assert set(question.reference) <= reachable(facts, hub, 2)
        else:
            year = int(re.search(r"before (\d+)", question.question)[1])
            born = [next(d for key, _, d in facts[t] if key == "born") for t in question.supporting_titles]
            assert question.reference == sum(int(date.split()[-1]) < year for date in born) and len(born) == 4


def test_rare_chains(asked, facts):
    for question in asked["bamboogle"]:
        start = next(title for title in NAME.findall(question.question) if title in facts)
        assert question.answers[0] in reachable(facts, start, 2) - links(facts, start)


def test_changed_facts(asked, facts, newer):
    changed = {title for title in newer if set(newer[title]) != set(facts[title])}
    assert changed and set(newer) == set(facts)
    kinds = []
    for question in asked["freshqa"]:
        start = next(title for title in NAME.findall(question.question) if title in facts)
        hops = 1 if question.details["num_hops"] == "one-hop" else 2
        answer = question.answers[0]
        assert answer in reachable(newer, start, hops)
        kinds.append((hops, question.details["fact_type"]))
        if kinds[-1] == (1, "slow-changing"):
            assert answer not in links(facts, start)  # what the older dump says is wrong now
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        (1, "slow-changing"): 24, (2, "slow-changing"): 24, (2, "never-changing"): 12,
    }  # fmt: skip


def test_the_newer_dump_holds_changed_articles_alone_under_their_old_ids(made, facts, newer):
    old, new = (ElementTree.fromstring(bz2.decompress(d.read_bytes())) for d in (made[0].dump, made[1].newer_dump))
    ids = {page.findtext(f"{XML}title"): page.findtext(f"{XML}id") for page in old.iter(f"{XML}page")}
    pages = list(new.iter(f"{XML}page"))
    assert {page.findtext(f"{XML}title") for page in pages} == {t for t in newer if set(newer[t]) != set(facts[t])}
    assert all(ids[page.findtext(f"{XML}title")] == page.findtext(f"{XML}id") for page in pages)
    assert {page.findtext(f"{XML}revision/{XML}timestamp")[:7] for page in pages} == {"2024-07"}


def test_equal_arguments_give_equal_files(tmp_path):
    def files(name, seed=0, entities=200):
        toywiki.generate_benchmarks(tmp_path / name, 10, entities=entities, seed=seed)
        return {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}

    first = files("one")
    assert first == files("two") and first != files("three", seed=1)
    assert len(first) == 8  # six, the aliases, the newer dump


def test_a_world_without_a_test_split_has_none(tmp_path):
    shares = {"train": 0.9, "validation": 0.1, "test": 0.0}
    assert toywiki.generate_benchmarks(tmp_path, 10, entities=100, split_shares=shares).files == {}
