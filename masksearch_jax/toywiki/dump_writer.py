"""Writes the toy world as a MediaWiki export (XML, bz2), with its splits and questions beside it.

Enters: a directory and the size, seed and split shares of the world. Leaves: `toy.xml.bz2`, `toy.splits.json`,
`toy.questions.json`, and from `generate_benchmarks` the folder `benchmarks` and `toy.newer.xml.bz2`. They are
byte-identical for equal arguments. The dump contains what a reader of real dumps has to deal with: redirects, pages
outside the article namespace, infobox templates, links whose text differs from their target, references, comments,
files, categories, section headings.
"""

import bz2
import dataclasses
import hashlib
import json
import random
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from masksearch_jax.toywiki import (
    benchmark_editions,
    bridge_questions,
    changes,
    corroborating_articles,
    names,
    sentence_wording,
)
from masksearch_jax.toywiki.world import Entity, World, build_world

DEFAULT_SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}

_NAMESPACES = {
    -2: "Media", -1: "Special", 0: "", 1: "Talk", 2: "User", 3: "User talk", 4: "Project", 6: "File", 8: "MediaWiki",
    10: "Template", 11: "Template talk", 14: "Category", 15: "Category talk",
}  # fmt: skip
_HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ http://www.mediawiki.org/xml/export-0.11.xsd" \
version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Toy Encyclopedia</sitename>
    <dbname>toywiki</dbname>
    <base>https://toy.example/wiki/Main_Page</base>
    <generator>masksearch_jax toywiki</generator>
    <case>first-letter</case>
    <namespaces>
"""
_PLURALS = {"person": "People", "city": "Cities", "company": "Companies", "work": "Books", "river": "Rivers"}
_BASE36 = string.digits + string.ascii_lowercase
_TALK_EVERY = 40
_REDIRECT_SHARE = 0.12


@dataclasses.dataclass(frozen=True)
class Paths:
    """The files of one toy encyclopedia."""

    dump: Path
    splits: Path
    questions: Path


@dataclasses.dataclass(frozen=True)
class Editions:
    """The benchmark files of a toy encyclopedia.

    files: by name of the benchmark (evals/benchmarks.py), in the official formats. newer_dump: the articles that
    changed after the toy's dump was made.
    """

    files: dict[str, Path]
    newer_dump: Path


def generate(
    directory: Path | str,
    entities: int = 3000,
    seed: int = 0,
    split_shares: Mapping[str, float] = DEFAULT_SHARES,
    first_words: int = 150,
    second_words: int = 100,
    corroborating: float = 0.0,
) -> Paths:
    """Write the toy encyclopedia of `entities` articles into `directory`; return its files.

    Splits are disjoint clusters: no article of one split names an entity of another. first_words, second_words: largest
    pools of invented words. corroborating: share of the facts that further articles state as well
    (corroborating_articles.py).

    Raises ValueError before anything is written if the names, the splits or these articles cannot be made.
    """
    world, articles = _written(entities, seed, split_shares, first_words, second_words)
    volumes = corroborating_articles.volumes(world, corroborating, random.Random(f"{seed}/annals"))
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = Paths(*(directory / f"toy.{name}" for name in ("xml.bz2", "splits.json", "questions.json")))
    _write_dump(paths.dump, enumerate(_pages(world, articles, volumes, random.Random(f"{seed}/wikitext")), 1))
    _write_json(
        paths.splits, {one.title: one.split for one in world.entities} | {one.title: one.split for one in volumes}
    )
    _write_json(paths.questions, bridge_questions.draw_questions(world, articles, random.Random(f"{seed}/questions")))
    return paths


def generate_benchmarks(
    directory: Path | str,
    count: int,
    entities: int = 3000,
    seed: int = 0,
    split_shares: Mapping[str, float] = DEFAULT_SHARES,
    first_words: int = 150,
    second_words: int = 100,
    corroborating: float = 0.0,
) -> Editions:
    """Write the toy's editions of the six benchmarks, and the newer articles that its FreshQA asks about.

    count: questions of each edition; fewer if the test split has fewer. The arguments after `count` are those of
    `generate`. A benchmark for which the world is too small is left out.
    """
    world, articles = _written(entities, seed, split_shares, first_words, second_words)
    newer, changed = changes.renew(world, random.Random(f"{seed}/changes"))
    volumes = corroborating_articles.volumes(world, corroborating, random.Random(f"{seed}/annals"))
    directory = Path(directory)
    files = benchmark_editions.write(directory / "benchmarks", world, articles, newer, changed, count, seed)
    rng = random.Random(f"{seed}/newer")
    renewed = {end for fact in changed for end in (newer.facts[fact].subject, newer.facts[fact].object)}
    renewed |= {end for fact in changed for end in (world.facts[fact].subject, world.facts[fact].object)}

    def pages() -> Iterator[tuple[int, tuple[int, str, str, str]]]:
        old = enumerate(_pages(world, articles, volumes, random.Random(f"{seed}/wikitext")), 1)
        number_of = {title: number for number, (space, title, _, target) in old if space == 0 and not target}
        for i in sorted(renewed):
            sentences = sentence_wording.article(newer, i, rng)
            text = _article_text(newer, i, sentences, lambda title: f"[[{title}]]", rng)
            yield number_of[newer.entities[i].title], (0, newer.entities[i].title, text, "")
        for volume in volumes:
            if not set(changed).isdisjoint(volume.facts):
                yield number_of[volume.title], (0, volume.title, _volume_text(newer, volume), "")

    dump = directory / "toy.newer.xml.bz2"
    _write_dump(dump, pages(), month="2024-07")
    return Editions(files, dump)


def _written(
    entities: int, seed: int, split_shares: Mapping[str, float], first_words: int, second_words: int
) -> tuple[World, list[list[sentence_wording.Sentence]]]:
    """Return the world and the sentences of its articles."""
    world = build_world(entities, seed, split_shares, sentence_wording.vocabulary(), first_words, second_words)
    rng = random.Random(f"{seed}/wording")
    return world, [sentence_wording.article(world, i, rng) for i in range(len(world.entities))]


def _write_dump(path: Path, pages: Iterable[tuple[int, tuple[int, str, str, str]]], month: str = "2024-01") -> None:
    """Write an export of numbered pages (namespace, title, text, redirect target), all edited in `month`."""
    with bz2.open(path, "wt", encoding="utf-8", newline="\n") as out:
        out.write(_HEADER)
        for key, name in _NAMESPACES.items():
            out.write(f'      <namespace key="{key}" case="first-letter"{f">{name}</namespace>" if name else " />"}\n')
        out.write("    </namespaces>\n  </siteinfo>\n")
        for number, page in pages:
            out.write(_page_xml(number, *page, month))
        out.write("</mediawiki>\n")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def _page_xml(number: int, namespace: int, title: str, text: str, target: str, month: str) -> str:
    """Return one <page>. target: the title that a redirect leads to, or ''."""
    full = f"{_NAMESPACES[namespace]}:{title}" if namespace else title
    redirect = f"\n    <redirect title={quoteattr(target)} />" if target else ""
    day, second = 1 + number % 28, number % 60
    return f"""  <page>
    <title>{escape(full)}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>{redirect}
    <revision>
      <id>{100000 + number}</id>
      <timestamp>{month}-{day:02d}T12:00:{second:02d}Z</timestamp>
      <contributor>
        <username>Toy Editor</username>
        <id>7</id>
      </contributor>
      <comment>first version</comment>
      <origin>{100000 + number}</origin>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>
      <sha1>{_sha1(text)}</sha1>
    </revision>
  </page>
"""


def _sha1(text: str) -> str:
    """Return the SHA-1 in base 36 with 31 digits, as MediaWiki writes it."""
    value, digits = int(hashlib.sha1(text.encode()).hexdigest(), 16), ""
    while value:
        value, digit = divmod(value, 36)
        digits = _BASE36[digit] + digits
    return digits.rjust(31, "0")


def _pages(
    world: World,
    articles: list[list[sentence_wording.Sentence]],
    volumes: list[corroborating_articles.Volume],
    rng: random.Random,
) -> Iterator[tuple[int, str, str, str]]:
    """Yield (namespace, title, wikitext, redirect target) of every page, with other pages between the articles."""
    for kind, plural in _PLURALS.items():
        yield 10, f"Infobox {kind}", '<includeonly>{| class="infobox"\n! {{{name}}}\n|}</includeonly>', ""
        yield 14, plural, f"Articles about {plural.lower()}.\n\n[[Category:Contents]]", ""
    redirected = {i for i in range(len(world.entities)) if rng.random() < _REDIRECT_SHARE}
    aliases = {world.entities[i].title: names.alias(world.entities[i].title) for i in redirected}

    def link(title: str) -> str:
        choice = rng.random()
        if title in aliases and choice < 0.5:
            return f"[[{aliases[title]}|{title}]]"
        return f"[[{title}|{title}]]" if choice > 0.9 else f"[[{title}]]"

    for i, entity in enumerate(world.entities):
        yield 0, entity.title, _article_text(world, i, articles[i], link, rng), ""
        if entity.title in aliases:
            yield 0, aliases[entity.title], f"#REDIRECT [[{entity.title}]]\n\n{{{{R from sort name}}}}", entity.title
        if i % _TALK_EVERY == 0:
            yield 1, entity.title, f"Is [[{entity.title}]] complete? ~~~~", ""
    for volume in volumes:
        yield 0, volume.title, _volume_text(world, volume), ""


def _volume_text(world: World, volume: corroborating_articles.Volume) -> str:
    return f"{volume.text(world, lambda title: f'[[{title}]]')}\n\n[[Category:Annals]]"


def _article_text(
    world: World, index: int, sentences: list[sentence_wording.Sentence], link: Callable[[str], str], rng: random.Random
) -> str:
    """Return the wikitext of an article: infobox, one paragraph, and the other parts of a real page."""
    entity = world.entities[index]
    body = []
    for place, sentence in enumerate(sentences):
        text = sentence.wikitext(world, link, bold=place == 0)
        if rng.random() < 0.25:
            text += f"<ref>{{{{cite book |title=Annals of {entity.title} |page={rng.randrange(1, 400)}}}}}</ref>"
        body.append(text)
    if rng.random() < 0.2:
        body.insert(1, "<!-- please keep this paragraph short -->")
    parts = [_infobox(world, index)]
    if rng.random() < 0.15:
        parts.append(f"[[File:{entity.title.replace(' ', '_')}.jpg|thumb|A view of {entity.title}]]")
    parts.append(" ".join(body))
    if any("<ref>" in text for text in body):
        parts.append("\n== References ==\n{{reflist}}")
    return "\n".join(parts) + f"\n\n{_categories(entity, rng)}"


def _infobox(world: World, index: int) -> str:
    entity = world.entities[index]
    rows = [f"| name = {entity.title}"]
    for number in world.facts_of[index]:
        fact = world.facts[number]
        side = sentence_wording.side_of(fact, index)
        rows.append(
            f"| {sentence_wording.keyword(fact.relation.name, side)} = [[{world.entities[fact.other(index)].title}]]"
        )
        if fact.date:
            rows.append(f"| {sentence_wording.keyword(fact.relation.name, side)}_date = {fact.date}")
    return "\n".join([f"{{{{Infobox {entity.kind}", *rows, "}}"])


def _categories(entity: Entity, rng: random.Random) -> str:
    lines = [f"{{{{DEFAULTSORT:{names.alias(entity.title)}}}}}"] if entity.kind == "person" else []
    lines.append(f"[[Category:{_PLURALS[entity.kind]}]]")
    if rng.random() < 0.3:
        lines.append(f"{{{{{entity.kind}-stub}}}}")
    return "\n".join(lines)
