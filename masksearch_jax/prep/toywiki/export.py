"""Writes the toy world as a MediaWiki export (XML, bz2), with its splits and questions beside it.

In: a directory and the size, seed and split shares of the world. Out: `toy.xml.bz2`, `toy.splits.json`,
`toy.questions.json`, byte-identical for equal arguments. The dump holds what a reader of real dumps has to cope with:
redirects, pages outside the article namespace, infobox templates, links with other text than their target,
references, comments, files, categories, section headings.
"""

import bz2
import dataclasses
import hashlib
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from masksearch_jax.prep.toywiki import questions, wording
from masksearch_jax.prep.toywiki.world import Entity, World, build

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


def generate(
    directory: Path | str,
    entities: int = 3000,
    seed: int = 0,
    split_shares: Mapping[str, float] = DEFAULT_SHARES,
    first_words: int = 150,
    second_words: int = 100,
) -> Paths:
    """Writes the toy encyclopedia of `entities` articles into `directory` and returns its files.

    Splits are disjoint clusters: no article of one names an entity of another. first_words, second_words: largest
    pools of invented words. Raises ValueError before anything is written if the names or the splits cannot be made.
    """
    world = build(entities, seed, split_shares, wording.vocabulary(), first_words, second_words)
    rng = random.Random(f"{seed}/wording")
    articles = [wording.article(world, i, rng) for i in range(len(world.entities))]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = Paths(*(directory / f"toy.{name}" for name in ("xml.bz2", "splits.json", "questions.json")))
    with bz2.open(paths.dump, "wt", encoding="utf-8", newline="\n") as out:
        out.write(_HEADER)
        for key, name in _NAMESPACES.items():
            out.write(f'      <namespace key="{key}" case="first-letter"{f">{name}</namespace>" if name else " />"}\n')
        out.write("    </namespaces>\n  </siteinfo>\n")
        for number, page in enumerate(_pages(world, articles, random.Random(f"{seed}/wikitext")), 1):
            out.write(_page_xml(number, *page))
        out.write("</mediawiki>\n")
    _write_json(paths.splits, {e.title: e.split for e in world.entities})
    _write_json(paths.questions, questions.make(world, articles, random.Random(f"{seed}/questions")))
    return paths


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def _page_xml(number: int, namespace: int, title: str, text: str, target: str) -> str:
    """Returns one <page>; `target` is the title that a redirect leads to, or ''."""
    full = f"{_NAMESPACES[namespace]}:{title}" if namespace else title
    redirect = f"\n    <redirect title={quoteattr(target)} />" if target else ""
    day, second = 1 + number % 28, number % 60
    return f"""  <page>
    <title>{escape(full)}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>{redirect}
    <revision>
      <id>{100000 + number}</id>
      <timestamp>2024-01-{day:02d}T12:00:{second:02d}Z</timestamp>
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
    """Returns the SHA-1 in base 36 with 31 digits, as MediaWiki writes it."""
    value, digits = int(hashlib.sha1(text.encode()).hexdigest(), 16), ""
    while value:
        value, digit = divmod(value, 36)
        digits = _BASE36[digit] + digits
    return digits.rjust(31, "0")


def _pages(
    world: World, articles: list[list[wording.Sentence]], rng: random.Random
) -> Iterator[tuple[int, str, str, str]]:
    """Yields (namespace, title, wikitext, redirect target) of every page, other pages strewn between the articles."""
    for kind, plural in _PLURALS.items():
        yield 10, f"Infobox {kind}", '<includeonly>{| class="infobox"\n! {{{name}}}\n|}</includeonly>', ""
        yield 14, plural, f"Articles about {plural.lower()}.\n\n[[Category:Contents]]", ""
    redirected = {i for i in range(len(world.entities)) if rng.random() < _REDIRECT_SHARE}
    aliases = {world.entities[i].title: _alias(world.entities[i].title) for i in redirected}

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


def _alias(title: str) -> str:
    first, second = title.split()
    return f"{second}, {first}"


def _article_text(
    world: World, index: int, sentences: list[wording.Sentence], link: Callable[[str], str], rng: random.Random
) -> str:
    """Returns the wikitext of an article: infobox, one paragraph, the furniture of a real page."""
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
        side = wording.side_of(fact, index)
        rows.append(f"| {wording.keyword(fact.relation.name, side)} = [[{world.entities[fact.other(index)].title}]]")
        if fact.date:
            rows.append(f"| {wording.keyword(fact.relation.name, side)}_date = {fact.date}")
    return "\n".join([f"{{{{Infobox {entity.kind}", *rows, "}}"])


def _categories(entity: Entity, rng: random.Random) -> str:
    lines = [f"{{{{DEFAULTSORT:{_alias(entity.title)}}}}}"] if entity.kind == "person" else []
    lines.append(f"[[Category:{_PLURALS[entity.kind]}]]")
    if rng.random() < 0.3:
        lines.append(f"{{{{{entity.kind}-stub}}}}")
    return "\n".join(lines)
