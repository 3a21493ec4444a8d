"""The setting `dump`: several files, several exports in one file, and wikis in other languages."""

import bz2
import gzip
import json
import unicodedata
from pathlib import Path

import pytest
from test_dump_reader import HEAD, PAGES, page, read, write

from configs import prepare as settings_page
from masksearch_jax.prep import manifest, preparation
from masksearch_jax.prep.spans import candidates
from masksearch_jax.prep.wiki import (
    dump_files,
    dump_reader,
    languages,
    passage_cutting,
    sentence_borders,
    site_info,
    wikitext,
)
from masksearch_jax.workflows import training

END = "</mediawiki>\n"
FIRST, SECOND = HEAD + "".join(PAGES[:4]) + END, HEAD + "".join(PAGES[4:]) + END
ALL = ["Alpha", "Béta", "Gamma"]


def titles(path, **options):
    return [article.title for article in read(path, **options)[0]]


# ---- several exports in one file ----


@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress], ids=["xml", "bz2", "gz"])
@pytest.mark.parametrize("together", [True, False])
def test_exports_one_after_the_other(tmp_path, pack, together):
    """As `cat a.xml b.xml`, and as `cat a.xml.bz2 b.xml.bz2` has it, with or without a declaration."""
    second = '<?xml version="1.0"?>\n<!DOCTYPE mediawiki>\n' + SECOND
    data = pack((FIRST + second).encode()) if together else pack(FIRST.encode()) + pack(second.encode())
    assert titles(write(tmp_path, data)) == ALL


@pytest.mark.parametrize("padding", [b"\0" * 512, b"\n", b"\0\0\n"])
def test_padding_behind_a_stream(tmp_path, padding):
    first, second = (bz2.compress(part.encode()) for part in (FIRST, SECOND))
    assert titles(write(tmp_path, first + padding + second + padding)) == ALL
    assert titles(write(tmp_path, gzip.compress((FIRST + SECOND).encode()) + b"\0" * 512)) == ALL
    with pytest.raises(dump_reader.DumpError, match="compressed stream is damaged"):
        titles(write(tmp_path, first + b"garbage" + second))


@pytest.mark.parametrize(
    "between",
    [
        "<!-- a comment -->",
        "<!-- <page><title>Not this one</title></page> -->",
        "<!-- </page> -->\n<!-- <page> -->",
        "<logitem><id>1</id><type>delete</type></logitem>\n",
    ],
)
def test_comments_and_log_items_between_pages(tmp_path, monkeypatch, between):
    behind = between * between.startswith("<!--")
    text = HEAD + between + PAGES[0] + between + PAGES[4] + between + PAGES[5] + END + behind
    text += HEAD + PAGES[1] + behind + END + behind
    for size in (1 << 20, 5, 64):
        monkeypatch.setattr(dump_reader, "_CHUNK", size)
        assert titles(write(tmp_path, text.encode())) == ALL


def test_an_export_cut_off_before_the_next_is_damage(tmp_path):
    path = write(tmp_path, (HEAD + PAGES[0] + HEAD + PAGES[4] + END).encode())
    with pytest.raises(dump_reader.DumpError, match="next export begins: </mediawiki> is missing"):
        titles(path)
    assert titles(path, skip_bad=True) == ALL[:2]


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (page(1, "Alpha", "A later revision."), r"the title 'Alpha' stands a second time"),
        (page(7, "Alpha", "Another page."), r"the title 'Alpha' stands a second time"),
        (page(1, "Delta", "Another title."), r"the page id 1 stands a second time, now with the title 'Delta'"),
    ],
)
def test_a_page_that_stands_twice_is_named_and_the_first_kept(tmp_path, again, message):
    path = write(tmp_path, (FIRST + HEAD + again + PAGES[4] + END).encode())
    with pytest.raises(dump_reader.DumpError, match=message + ".*skip_bad=True"):
        titles(path)
    found, stats = read(path, skip_bad=True)
    assert [a.title for a in found] == ALL[:2] and stats.bad == 1 and "Alpha''' <ref>" in found[0].wikitext


def test_exports_of_two_wikis_are_refused(tmp_path):
    other = HEAD.replace('"en"', '"de"') + PAGES[4] + END
    with pytest.raises(dump_reader.DumpError, match="'de'.*'en'.*--workdir of its own"):
        titles(write(tmp_path, (FIRST + other).encode()), skip_bad=True)


def test_titles_and_ids_that_no_wiki_has_are_damage(tmp_path):
    for bad in (page(9, "T" * 256, "A."), page(1 << 63, "Big", "A."), page(-1, "Negative", "A.")):
        path = write(tmp_path, (HEAD + PAGES[0] + bad + END).encode())
        with pytest.raises(dump_reader.DumpError, match="damaged"):
            titles(path)
        assert titles(path, skip_bad=True) == ["Alpha"]


# ---- several files ----


@pytest.fixture
def two(tmp_path):
    (tmp_path / "part-2.xml.bz2").write_bytes(bz2.compress(SECOND.encode()))
    (tmp_path / "part-1.xml").write_text(FIRST)
    return [str(tmp_path / name) for name in ("part-1.xml", "part-2.xml.bz2")]


def test_files_of_a_setting(tmp_path, two):
    pattern = str(tmp_path / "part-*.xml*")
    for setting in (two, tuple(two), ",".join(two), f"{two[0]}, {two[1]}", pattern, str(tuple(two))):
        assert dump_files.files(setting) == two
    assert dump_files.files(two[0]) == dump_files.files(Path(two[0])) == two[:1]
    odd = tmp_path / "a,b [c].xml"
    odd.write_text(FIRST)
    assert dump_files.files(str(odd)) == [str(odd)]
    assert dump_files.files("gs://b/1.bz2,gs://b/2.bz2") == ["gs://b/1.bz2", "gs://b/2.bz2"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("", "dump='': no such file"),
        ("{two[0]},nowhere.xml", "dump='nowhere.xml': no such file"),
        ("nowhere-*.xml", r"dump='nowhere-\*.xml': no such file"),
        ("{two[0]},{two[0]}", "part-1.xml stands twice"),
        ("gs://bucket/part-*.xml", "patterns are for local files"),
        ("{two[0]},{corpus}", "corpora and exports"),
    ],
)
def test_files_that_cannot_be_read_as_one_are_refused(tmp_path, two, setting, message):
    corpus = tmp_path / "corpus.json"
    corpus.write_text('{"A": "b"}')
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        dump_files.files(setting.format(two=two, corpus=corpus))


def test_several_files_are_read_as_one_dump(tmp_path, two):
    stats = dump_reader.DumpStats()
    found = list(dump_files.read_articles(two, False, stats))
    assert [title for _, title, _ in found] == ALL
    assert stats.file_bytes == sum(Path(path).stat().st_size for path in two) == manifest.size(two)
    with pytest.raises(dump_reader.DumpError, match="'Alpha' stands a second time"):
        list(dump_files.read_articles([two[0], write(tmp_path, FIRST.encode())], False, stats))
    both = tmp_path / "both"
    both.write_bytes(b"".join(Path(path).read_bytes() for path in two))
    assert manifest.sha256(*two) == manifest.sha256(both)
    for place, name in enumerate("ab"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"Tolm": f"City {place}."}))
    corpora = dump_files.files(str(tmp_path / "[ab].json"))
    assert [(id, title) for id, title, _ in dump_files.read_articles(corpora, False, stats)] == [
        (0, "Tolm"),
        (1, "Tolm"),
    ]


def test_a_changed_file_among_several_is_noticed(tmp_path, two):
    setting, data = str(tmp_path / "part-*"), tmp_path / "data"
    data.mkdir()
    made = {"settings": {"dump": setting}, "source": {"path": setting, "bytes": manifest.size(two)}}
    manifest.write(data, made, [])
    assert manifest.is_current(data, {"dump": setting})
    (tmp_path / "part-3.xml").write_text(SECOND)
    with pytest.raises(ValueError, match=rf"the dump .*part-\* had {manifest.size(two)} bytes, has"):
        manifest.is_current(data, {"dump": setting})


def test_train_hands_several_files_to_prepare(two):
    config = settings_page.get_config()
    config.dump = ",".join(two)
    (flag,) = [one for one in training.prepare_command(config, Path("w")) if one.startswith("--config.dump=")]
    assert dump_files.files(flag.partition("=")[2]) == two


# ---- other languages ----


def head_of(language, **names):
    keys = {"media": -2, "file": 6, "template": 10, "category": 14}
    listed = "".join(f'<namespace key="{keys[n]}" case="first-letter">{name}</namespace>' for n, name in names.items())
    return (
        f'<mediawiki version="0.10" xml:lang="{language}">\n<siteinfo><dbname>{language}wiki</dbname><namespaces>'
        f'<namespace key="0" case="first-letter" />{listed}</namespaces></siteinfo>\n'
    )


GERMAN = head_of("de", media="Medium", file="Datei", template="Vorlage", category="Kategorie")
GERMAN_TEXT = """[[Datei:a.jpg|mini|Ein [[Bild]] von ihm]][[Bild:b.jpg|100px]]
'''Karl Velith''' (* [[3. Mai]] 1823 in [[Ostheim]]; † 1890) war ein [[Maler]]. Er lebte z. B. in der [[Rheinstadt]]er
Straße und malte am 3. Mai 1850 die [[Felsenburg]]. Siehe [[Vorlage:X|Y]] und [[:Kategorie:Maler|alle Maler]] dort.
[[Kategorie:Maler der Romantik|Velith, Karl]]"""


def test_german_by_the_names_of_its_wiki(tmp_path):
    pages = page(1, "Karl Velith", GERMAN_TEXT) + page(2, "Velith", "#WEITERLEITUNG [[Karl Velith]]")
    path = write(tmp_path, (GERMAN + pages + END).encode())
    assert dump_files.site([path]).language == "de"
    stats = dump_reader.DumpStats()
    ((_, title, document),) = dump_files.read_articles([path], False, stats)
    assert stats.redirects == 1
    assert document.categories == ["Maler der Romantik"]
    text = " ".join(p.text for p in document.paragraphs)
    assert "mini" not in text and "100px" not in text and text.endswith("Siehe Y und alle Maler dort.")
    (cut,) = passage_cutting.cut(document, title, 100, 40)
    shown = [cut.text[a.start : a.end] for a in cut.anchors]
    assert shown == ["3. Mai", "Ostheim", "Maler", "Rheinstadter", "Felsenburg"]
    found = candidates.find(cut.text, title, cut.anchors, document.categories, [], language="de")
    assert {span.kind for span in found} <= {"link", "category"}
    assert "Ostheim" in {cut.text[s.start : s.end] for s in found}


def test_japanese_has_sentences_words_and_spans_without_spaces():
    wiki = site_info.read(head_of("ja", file="ファイル").encode())
    text = (
        "[[ファイル:a.jpg|サムネイル|説明]]'''東京'''は、[[日本]]の[[首都]]である。人口は[[関東地方]]で最大である。"
        "「これは何か。」と[[夏目漱石]]は言った。彼は[[英国]]に行った！[[Category:日本の都市]]"
    )
    document = wikitext.clean(text, "東京", wiki)
    assert document.categories == ["日本の都市"]
    (cut,) = passage_cutting.cut(document, "東京", 100, 40)
    assert cut.text.count("。") == 4 and "サムネイル" not in cut.text
    found = [cut.text[s.start : s.end] for s in candidates.find(cut.text, "東京", cut.anchors, [], [], language="ja")]
    assert found == ["日本", "首都", "関東地方", "夏目漱石", "英国"]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("ja", ["人口は最大である。", "「これは何か。」と言った。", "行った！"]),
        ("zh", ["他是画家。", "真的吗？", "是的。"]),
        ("hi", ["दिल्ली भारत की राजधानी है।", "यह एक बड़ा शहर है।", "क्या यह सच है?", "हाँ।"]),
        ("ur", ["یہ ایک شہر ہے۔", "یہ بڑا ہے۔"]),
        ("ar", ["هل هذا صحيح؟", "نعم هذا صحيح."]),
        ("hy", ["Սա քաղաք է։", "Այն մեծ է։"]),
        ("am", ["ይህ ከተማ ነው።", "ትልቅ ነው።"]),
        ("ru", ["Он родился в 1823 г. в Москве.", "Умер в Париже."]),
        ("de", ["Am 3. Mai kam Dr. Haus nach Wien.", "Er blieb bis 1850.", "Dann starb er."]),
    ],
)
def test_sentences_by_script(language, expected):
    text = ("" if language in ("ja", "zh") else " ").join(expected)
    assert [text[a:b] for a, b in sentence_borders.split(text, language)] == expected


def test_english_names_work_everywhere_and_other_words_stay_links():
    wiki = site_info.read(GERMAN.encode())
    assert [wiki.kind(f"{name}:x") for name in ("Datei", "datei", " Bild", "Kategorie", "Vorlage", "CSI", "")] == [
        "file", "file", "file", "category", "other", "", "",
    ]  # fmt: skip
    source = "[[File:a.jpg|mini|b]]Hier ist [[Berlin: Stadt|die Stadt]] und mehr.[[Category:Ort]]"
    document = wikitext.clean(source, "T", wiki)
    assert [p.text for p in document.paragraphs] == ["Hier ist die Stadt und mehr."]
    assert [a.target for a in document.paragraphs[0].anchors] == ["Berlin: Stadt"] and document.categories == ["Ort"]
    assert site_info.read(HEAD.encode()) == site_info.ENGLISH and site_info.read(b"") == site_info.ENGLISH
    assert not languages.without("en", candidates.KINDS) and not languages.without("en-gb", candidates.KINDS)
    assert languages.without("de", candidates.KINDS) == ["date", "number", "name", "rare"]


def test_a_language_without_sentence_ends_is_refused_by_name(tmp_path):
    config = settings_page.get_config()
    config.dump = str(write(tmp_path, (head_of("th") + PAGES[0] + END).encode(), "th.xml"))
    with pytest.raises(ValueError, match=r"th\.xml is in Thai \('th'\), which marks no ends of sentences"):
        preparation.validate_preparation(config)
    config.dump = str(write(tmp_path, (GERMAN + PAGES[0] + END).encode(), "de.xml"))
    preparation.validate_preparation(config)
    config.tool_warmup = True
    with pytest.raises(ValueError, match=r"tool_warmup=True: .*English, .*de\.xml' is in German"):
        preparation.validate_preparation(config)
    config.tool_warmup = False
    config.newer_dump = str(write(tmp_path, FIRST.encode(), "en.xml"))
    with pytest.raises(ValueError, match=r"newer_dump=.* is in English, and the dump in German"):
        preparation.validate_preparation(config)


@pytest.mark.slow
def test_two_german_files_become_tasks(tmp_path, capsys):
    """The whole preparation: passages of both files, links as masks, and what is off said and kept in the report."""
    from masksearch_jax.workflows import data_preparation

    names = "Arnheim Bergdorf Corvin Dornfeld Elmau Falkenau Gernsee Hollabrunn Ilmenau Jettingen".split()
    for part in range(2):
        pages = []
        for i in range(part * 30, part * 30 + 30):
            one, two, three = (f"{names[(i * k + k) % 10]}{'abcdef'[i % 6]}" for k in (1, 3, 7))
            text = (
                f"'''Schloss {i}''' liegt bei [[{one}]] und gehört der Familie von [[{two}]]. "
                f"Es wurde am 3. Mai 1823 von dem Baumeister [[{three}er]] errichtet. Die Anlage steht unter Schutz.\n"
                "[[Kategorie:Schlösser]]"
            )
            pages.append(page(i, f"Schloss {i}", text))
        (tmp_path / f"dewiki-{part}.xml.bz2").write_bytes(bz2.compress((GERMAN + "".join(pages) + END).encode()))
    config = settings_page.get_config()
    config.dump = str(tmp_path / "dewiki-*.xml.bz2")
    config.tasks.epochs = 1
    config.retrieval.index, config.retrieval.dims = "exact", 256
    config.tokenizer.vocab_size = 600
    made = data_preparation.run(config, tmp_path / "w")
    assert "in German. Masked are links" in capsys.readouterr().out
    report = json.loads((tmp_path / "w" / "data" / "report.json").read_text())
    assert report["articles"] == 60 and report["spans"].keys() <= {"link", "category"}
    assert report["language"] == "German" and report["spans_of_english_alone"] == ["date", "number", "name", "rare"]
    assert made["source"]["path"] == config.dump and made["source"]["bytes"] == manifest.size(
        dump_files.files(config.dump)
    )
    assert data_preparation.run(config, tmp_path / "w") == made  # already prepared


def test_a_corpus_with_decomposed_accents_is_read_as_one_without(tmp_path):
    """A mask's answer in another normal form than the rest of the corpus would be found by no search."""
    corpus = {"Elisa Godínez": ["Elisa Godínez Gómez was born in Köln in 1905.", "She met Ḃarbara in São Paulo."]}
    found = {}
    for form in ("NFC", "NFD"):
        path = tmp_path / f"{form}.json"
        path.write_text(unicodedata.normalize(form, json.dumps(corpus, ensure_ascii=False)))
        found[form] = list(dump_files.read_articles([path], False, dump_reader.DumpStats()))
    assert found["NFD"] == found["NFC"] and found["NFC"][0][1] == "Elisa Godínez"


# ---- corpora ----


def test_a_folder_of_texts_or_of_parts(tmp_path):
    for name, text in {"b/Tolm.txt": "Tolm grew in 1200.", "a/Karn Velith.txt": "Karn left.", "README.md": "#"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    paths = dump_files.files(str(tmp_path))
    assert [Path(path).name for path in paths] == ["Karn Velith.txt", "Tolm.txt"]
    stats = dump_reader.DumpStats()
    found = list(dump_files.read_articles(paths, False, stats))
    assert [(id, title) for id, title, _ in found] == [(0, "Karn Velith"), (1, "Tolm")] and stats.articles == 2
    (tmp_path / "more.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="1 files of JSON lines; 2 files of texts; it has to hold files of one kind"):
        dump_files.files(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder holds 0 other files"):
        dump_files.files(str(tmp_path / "empty"), "search_only")


def test_rows_of_a_corpus_with_fields_and_bad_ones(tmp_path):
    """Search-R1's lines of one title are one article; bad rows end the reading or are counted; bytes are told."""
    rows = [
        {"t": "Tolm", "b": "Tolm grew. It"},
        {"t": "Tolm", "b": "has a river."},
        {"t": "Karn"},
        {"t": "Vesh", "b": "A."},
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    fields, cfg = dump_files.corpora.Fields("t", "b"), settings_page.get_config()
    with pytest.raises(ValueError, match="c.jsonl, line 1: there is no field 'title'"):
        dump_files.check_corpora([path], cfg)
    cfg.corpus.update({"title": "t", "text": "b"})
    with pytest.raises(ValueError, match="c.jsonl, line 3"):
        dump_files.check_corpora([path], cfg)
    cfg.skip_bad = True
    dump_files.check_corpora([path], cfg)
    with pytest.raises(ValueError, match="c.jsonl, line 3: there is no field 'b'.*--config.skip_bad=True"):
        list(dump_files.read_articles([path], False, dump_reader.DumpStats(), fields))
    stats = dump_reader.DumpStats()
    found = list(dump_files.read_articles([path], True, stats, fields))
    assert [(id, title, document.paragraphs[0].text) for id, title, document in found] == [
        (0, "Tolm", "Tolm grew. It has a river."), (1, "Vesh", "A."),
    ]  # fmt: skip
    assert (stats.bad, stats.articles, stats.file_bytes) == (1, 2, path.stat().st_size)
