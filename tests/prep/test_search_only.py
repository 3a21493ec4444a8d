"""Search-only articles by themselves; tests/prep/test_prepare.py has them in a whole preparation."""

import json

import pytest

from configs import prepare as page
from masksearch_jax.prep import preparation, search_only
from masksearch_jax.prep.wiki import dump_files, dump_reader


def article(title, number):
    sentence = f"{title} is a town in Karn County that was founded by Anders Holm on 3 May {1700 + number}."
    return {
        "title": title,
        "text": f"{sentence} It lies on the river Orra near Mount Teven and has {number + 40} farms.",
    }


@pytest.fixture
def config(tmp_path):
    found = [article(f"Quillam {number}", number) for number in range(3)] + [article("Velith Bridge", 95)]
    (tmp_path / "searched.json").write_text(json.dumps(found))
    (tmp_path / "own.json").write_text(json.dumps([article("VELITH BRIDGE", 1), article("Velith (Bridge)", 2)]))
    config = page.get_config()
    config.search_only, config.passages.minimum = str(tmp_path / "searched.json"), 5
    return config


def test_the_dump_loses_its_articles_of_the_same_titles(config, tmp_path):
    own, lost = dump_files.read_articles([tmp_path / "own.json"], False, dump_reader.DumpStats()), []
    kept = list(search_only.without(own, search_only.titles(config), lost.append))
    assert lost == ["VELITH BRIDGE", "Velith (Bridge)"] and kept == []  # titles are compared by their words
    config.search_only = ""
    own = dump_files.read_articles([tmp_path / "own.json"], False, dump_reader.DumpStats())
    assert len(list(search_only.without(own, search_only.titles(config), lost.append))) == 2


def test_their_articles_are_numbered_after_those_of_the_dump(config):
    asked = []
    found = list(search_only.cut(config, lambda: asked.append(1) or 70))
    assert [p.article_id for p in found] == [70, 71, 72, 73] and len(asked) == 1
    assert {p.split for p in found} == {"search_only"} and found[0].text.startswith("Quillam 0 is a town")


def test_without_the_setting_there_are_none(config):
    config.search_only = ""
    assert search_only.titles(config) == frozenset()
    assert list(search_only.cut(config, lambda: pytest.fail("nothing has to be numbered"))) == []


def test_files_in_a_bucket_are_refused(config):
    config.search_only = "gs://bucket/articles.json"
    with pytest.raises(FileNotFoundError, match=r"search_only='gs://bucket/articles.json': no such file here; copy"):
        preparation.validate_preparation(config)
