"""The toy encyclopedia: read back from its files with a reader of the test's own."""

import bz2
import collections
import json
import math
import random
import re
from xml.etree import ElementTree

import pytest

from masksearch_jax import toywiki
from masksearch_jax.toywiki import names, sentence_wording
from masksearch_jax.toywiki.world import build_world

ENTITIES = 1000
XML = "{http://www.mediawiki.org/xml/export-0.11/}"
NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
DATE = re.compile(r"\b\d{1,2} [A-Z][a-z]+ 1\d{3}\b")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return toywiki.generate(tmp_path_factory.mktemp("toy"), entities=ENTITIES, seed=3)


@pytest.fixture(scope="module")
def pages(paths):
    return list(ElementTree.fromstring(bz2.decompress(paths.dump.read_bytes())).iter(f"{XML}page"))


@pytest.fixture(scope="module")
def wikitexts(pages):
    return {
        page.findtext(f"{XML}title"): page.findtext(f"{XML}revision/{XML}text")
        for page in pages
        if page.findtext(f"{XML}ns") == "0" and page.find(f"{XML}redirect") is None
    }


@pytest.fixture(scope="module")
def texts(wikitexts):
    """Plain text of each article by the test's own rules: the one line of prose, without its markup."""
    plain = {}
    for title, wikitext in wikitexts.items():
        wikitext = re.sub(r"<!--.*?-->|<ref>.*?</ref>", "", wikitext, flags=re.DOTALL)
        prose = [line for line in wikitext.split("\n") if re.search(r"^[^|{}\[=].*\.$", line)]
        assert len(prose) == 1, (title, prose)
        plain[title] = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", prose[0].replace("'''", "")).replace("  ", " ")
    return plain


@pytest.fixture(scope="module")
def splits(paths):
    return json.loads(paths.splits.read_text())


@pytest.fixture(scope="module")
def questions(paths):
    return json.loads(paths.questions.read_text())


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path):
    files = [
        [path.read_bytes() for path in vars(toywiki.generate(tmp_path / name, entities=200, seed=seed)).values()]
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert files[0] == files[1]
    assert all(one != other for one, other in zip(files[0], files[2], strict=True))


def test_dump_has_articles_redirects_and_pages_of_other_namespaces(pages, wikitexts, splits):
    assert list(wikitexts) == list(splits) and len(splits) == ENTITIES
    assert collections.Counter(splits.values()) == {"train": 600, "validation": 100, "test": 300}
    assert len({page.findtext(f"{XML}id") for page in pages}) == len(pages)
    spaces = {page.findtext(f"{XML}ns") for page in pages}
    assert {"0", "1", "10", "14"} <= spaces
    redirects = [page for page in pages if page.find(f"{XML}redirect") is not None]
    assert len(redirects) > ENTITIES * 0.05
    for page in redirects:
        target = page.find(f"{XML}redirect").get("title")
        assert target in splits
        assert page.findtext(f"{XML}revision/{XML}text").startswith(f"#REDIRECT [[{target}]]")
    for page in pages:
        text = page.find(f"{XML}revision/{XML}text")
        assert int(text.get("bytes")) == len(text.text.encode())


def test_wikitext_has_the_furniture_of_real_articles(wikitexts, pages):
    whole = "\n".join(wikitexts.values())
    for pattern in (r"\{\{Infobox ", r"<ref>", r"<!--", r"\[\[File:", r"== References ==", r"\[\[[^\]|]+, [^\]|]+\|"):
        assert re.search(pattern, whole), pattern
    known = {page.findtext(f"{XML}title") for page in pages}
    for title, wikitext in wikitexts.items():
        assert f"'''{title}'''" in wikitext
        targets = re.findall(r"\[\[(?!File:)([^|\]]+)", wikitext)
        assert targets and all(target in known for target in targets), title


def test_articles_are_short_begin_with_their_title_and_hold_enough_spans(texts):
    spans = []
    for title, text in texts.items():
        assert text.startswith(title)
        others = set(NAME.findall(text)) - {title}
        assert 2 <= len(others) <= 4, (title, text)
        spans.append(len(others) + len(DATE.findall(text)))
    words = sum(len(text.split()) for text in texts.values()) / len(texts)
    assert 22 <= words <= 32
    assert sum(count >= 4 for count in spans) > 0.85 * len(spans)


def test_every_link_and_every_date_stands_in_exactly_one_other_article(texts):
    mentions = collections.defaultdict(set)
    dated = collections.defaultdict(set)
    for title, text in texts.items():
        for name in NAME.findall(text):
            mentions[name].add(title)
        for date in DATE.findall(text):
            dated[date].add(title)
    for title, text in texts.items():
        for other in set(NAME.findall(text)) - {title}:
            assert title in NAME.findall(texts[other]), (title, other)
    assert all(len(places) == 2 for places in dated.values())
    for one, two in dated.values():
        assert one in texts[two] and two in texts[one]
    # An entity is named in two to four articles beside its own, so its name alone does not tell where an answer is.
    assert all(3 <= len(places) <= 5 for places in mentions.values())


def test_annals_state_the_facts_of_one_split_in_words_of_their_own(tmp_path, texts):
    paths = toywiki.generate(tmp_path, entities=ENTITIES, seed=3, corroborating=0.5)
    splits = json.loads(paths.splits.read_text())
    written = {
        page.findtext(f"{XML}title"): page.findtext(f"{XML}revision/{XML}text")
        for page in ElementTree.fromstring(bz2.decompress(paths.dump.read_bytes())).iter(f"{XML}page")
        if page.findtext(f"{XML}ns") == "0" and page.find(f"{XML}redirect") is None
    }
    volumes = {title: text for title, text in written.items() if title.startswith("Annals")}
    # The rest of the encyclopedia is what it is without them.
    assert list(splits) == list(written) and list(written)[:ENTITIES] == list(texts)
    keywords = {sentence_wording.keyword(relation, side) for relation in sentence_wording.TEMPLATES for side in (0, 1)}
    stated = []
    for title, wikitext in volumes.items():
        text = re.sub(r"\[\[Category.*|[\[\]]", "", wikitext)
        sentences = re.findall(r"[^.]+\.", text)
        assert 1 <= len(sentences) <= 3 and not keywords & set(re.findall(r"\w+", text))
        for sentence in sentences:
            one, two = (name for name in NAME.findall(sentence) if name in texts)
            assert splits[one] == splits[two] == splits[title]
            assert one in texts[two] and two in texts[one]
            assert all(date in texts[one] for date in DATE.findall(sentence))
            stated.append(frozenset((one, two)))
    facts = sum(len(set(NAME.findall(text)) - {title}) for title, text in texts.items()) / 2
    assert len(set(stated)) == len(stated) == pytest.approx(facts / 2, abs=2)
    with pytest.raises(ValueError, match="corroborating=1.5"):
        toywiki.generate(tmp_path / "wrong", entities=200, corroborating=1.5)
    assert not (tmp_path / "wrong").exists()


def test_annals_follow_what_changed(tmp_path):
    toywiki.generate(tmp_path / "old", entities=200, seed=3, corroborating=1.0)
    newer = toywiki.generate_benchmarks(tmp_path, 10, entities=200, seed=3, corroborating=1.0).newer_dump
    old, new = (
        {
            (page.findtext(f"{XML}id"), page.findtext(f"{XML}title")): page.findtext(f"{XML}revision/{XML}text")
            for page in ElementTree.fromstring(bz2.decompress(dump.read_bytes())).iter(f"{XML}page")
        }
        for dump in (tmp_path / "old" / "toy.xml.bz2", newer)
    )
    changed = [page for page in new if page[1].startswith("Annals")]
    assert changed and all(page in old and old[page] != new[page] for page in new)


def test_both_sides_word_a_fact_differently_and_share_its_values():
    world = build_world(300, 0, toywiki.DEFAULT_SHARES, sentence_wording.vocabulary())
    articles = [sentence_wording.article(world, i, random.Random(i)) for i in range(300)]
    seen = collections.defaultdict(dict)
    for i, sentences in enumerate(articles):
        assert sentences[0].plain(world).startswith(world.entities[i].title)
        for sentence in sentences:
            seen[sentence.fact][i] = sentence.plain(world)
    assert len(seen) == len(world.facts)
    for number, fact in enumerate(world.facts):
        assert set(seen[number]) == {fact.subject, fact.object}
        subject, object_ = seen[number][fact.subject], seen[number][fact.object]
        assert world.entities[fact.object].title in subject and world.entities[fact.subject].title in object_
        for value in (fact.date, fact.number):
            assert value in subject and value in object_
        own, other = (sentence_wording.keyword(fact.relation.name, side) for side in (0, 1))
        assert own in re.findall(r"\w+", subject) and own not in re.findall(r"\w+", object_)
        assert other in re.findall(r"\w+", object_) and other not in re.findall(r"\w+", subject)


def test_a_keyword_stands_in_all_wordings_of_its_side_and_nowhere_else():
    sides = [(key, list(templates)) for pair in sentence_wording.TEMPLATES.values() for key, templates in pair]
    assert len({key for key, _ in sides}) == len(sides)
    for key, _ in sides:
        for other, templates in sides:
            for template in templates:
                assert (key in re.findall(r"[a-z]+", template.lower())) == (key == other), (key, template)
    assert all(len(templates) >= 3 for _, templates in sides)
    for _, templates in sides:
        assert any(template.startswith("{x}") for template in templates)


def test_splits_are_disjoint_in_every_mention(wikitexts, splits):
    for title, wikitext in wikitexts.items():
        named = {name for name in NAME.findall(wikitext) if name in splits}
        named |= {f"{b} {a}" for a, b in re.findall(r"([A-Z][a-z]+), ([A-Z][a-z]+)", wikitext)} & set(splits)
        assert {splits[name] for name in named} == {splits[title]}, title


def test_held_out_names_are_new_combinations_of_words_frequent_in_train(texts, splits):
    train = collections.Counter(
        word for title, text in texts.items() if splits[title] == "train" for word in text.split() if word.isalpha()
    )
    for title in splits:
        for word in title.split():
            assert train[word] >= 12, word
    titles = collections.Counter(title.split()[0] for title in splits if splits[title] == "train")
    assert max(titles.values()) - min(titles.values()) <= 1
    assert not {word.lower() for title in splits for word in title.split()} & sentence_wording.vocabulary()


def test_questions_follow_from_the_two_named_articles(questions, texts, splits):
    assert {q["split"] for q in questions} == {"train", "validation", "test"}
    assert {q["level"] for q in questions} == {"medium", "hard"}
    assert len({q["_id"] for q in questions}) == len(questions)
    for q in questions:
        context = dict(q["context"])
        assert all("".join(sentences) == texts[title] for title, sentences in q["context"])
        assert len(q["context"]) == len(context) == 10 and q["type"] == "bridge"
        first, last = list(dict.fromkeys(title for title, _ in q["supporting_facts"]))
        assert {splits[title] for title in context} == {q["split"]}
        assert first in q["question"] and last not in q["question"] and q["answer"] not in q["question"]
        facts = [(title, context[title][place]) for title, place in q["supporting_facts"]]
        # The first sentence leads on to the bridge, the later ones are about it and hold the answer.
        bridge = (set(NAME.findall(facts[0][1])) - {first}).pop()
        later = " ".join(text for _, text in facts[1:])
        assert q["answer"] in later and q["answer"] not in context[first]
        if q["level"] == "medium":
            assert bridge == last and len(facts) == 2
        else:
            assert bridge in later and len(facts) == 3
            assert first not in texts[last] and q["answer"] not in texts[bridge]


def test_only_the_other_sides_keyword_tells_where_an_answer_is():
    """The room for learning to search: TF-IDF retrieval of the other article, one hit, link masks only."""
    world = build_world(600, 0, toywiki.DEFAULT_SHARES, sentence_wording.vocabulary())
    rng = random.Random(0)
    texts = [" ".join(s.plain(world) for s in sentence_wording.article(world, i, rng)) for i in range(600)]
    docs = [_terms(text) for text in texts]
    counts = collections.Counter(term for doc in docs for term in doc)
    weight = {term: math.log(len(docs) / count) for term, count in counts.items()}
    norms = [math.sqrt(sum(weight[term] for term in doc)) for doc in docs]

    def found(query: str, source: int) -> int:
        terms = _terms(query)
        scores = [sum(weight.get(t, 0) for t in terms & doc) / norm for doc, norm in zip(docs, norms, strict=True)]
        scores[source] = -1
        return scores.index(max(scores))

    hits = collections.Counter()
    tasks = 0
    for i in range(0, 600, 5):
        name = world.entities[i].title
        for number in world.facts_of[i]:
            fact, tasks = world.facts[number], tasks + 1
            side = sentence_wording.side_of(fact, i)
            for kind, word in (
                ("other", sentence_wording.keyword(fact.relation.name, 1 - side)),
                ("own", sentence_wording.keyword(fact.relation.name, side)),
                ("name", ""),
            ):
                hits[kind] += found(f"{name} {word}", i) == fact.other(i)
    assert hits["other"] > 0.85 * tasks
    assert hits["own"] < 0.45 * tasks and 0.25 * tasks < hits["name"] < 0.45 * tasks


def _terms(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) | set(NAME.findall(text))


def test_sizes_from_small_to_large_and_clear_errors(tmp_path):
    for entities in (60, 61, 75, 130):
        paths = toywiki.generate(tmp_path / str(entities), entities=entities)
        assert len(json.loads(paths.splits.read_text())) == entities
        world = build_world(entities, 0, toywiki.DEFAULT_SHARES, sentence_wording.vocabulary())
        assert all(world.facts_of)
        words = {w for e in world.entities if e.split == "train" for w in e.title.split()}
        assert {w for e in world.entities for w in e.title.split()} == words
    with pytest.raises(ValueError, match=r"entities=20000: 150 first words and 100 second words make only 15000"):
        toywiki.generate(tmp_path / "many", entities=20000)
    assert not (tmp_path / "many").exists()
    assert len(build_world(20000, 0, toywiki.DEFAULT_SHARES, first_words=250, second_words=120).entities) == 20000
    with pytest.raises(ValueError, match=r"split 'validation' would have 4"):
        toywiki.generate(tmp_path, entities=40)
    with pytest.raises(ValueError, match="sum to 1"):
        toywiki.generate(tmp_path, entities=100, split_shares={"train": 0.5})
    only_train = build_world(100, 0, {"train": 1.0})
    assert {e.split for e in only_train.entities} == {"train"}


def test_name_words_differ_in_their_first_letters_and_run_out_loudly():
    first, second = names.draw_pools(150, 100, sentence_wording.vocabulary(), random.Random(1))
    assert len({word[:3] for word in first + second}) == 250
    first, second = names.draw_pools(500, 300, set(), random.Random(1))
    assert len({word[:4] for word in first + second}) == 800
    with pytest.raises(ValueError, match="first_words=100000"):
        names.draw_pools(100000, 10, set(), random.Random(1))
