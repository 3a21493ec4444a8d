"""docs/configuration.md is what the configs say, and every setting says what it means."""

import importlib.util
import sys

import doc_pages
import pytest

_SPEC = importlib.util.spec_from_file_location("configuration_reference", doc_pages.DOCS / "configuration_reference.py")
reference = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = reference  # dataclasses look their module up
_SPEC.loader.exec_module(reference)


@pytest.fixture(scope="module")
def configurations():
    return reference.settings()


def test_the_page_is_up_to_date():
    assert reference.PAGE.read_text() == reference.page(), f"run `{reference.COMMAND}`"


def test_every_setting_has_a_description():
    lacking = reference.undescribed()
    assert not lacking, "write a comment beside it in configs/*.py"


def test_changes_are_those_of_the_configs(configurations):
    found = {setting.name: setting for setting in configurations[0]}
    rate = found["sft.optimizer.learning_rate"]
    assert rate.default == 0.02 and "with `pretrained`" in rate.changes["1e-05"]
    assert "prepare:wikipedia" in found["prepare.tokenizer.vocab_size"].changes["32768"]
    assert found["search.hits"].changes["3"] == [":dump", "recipes"]


def test_variants_are_those_that_a_config_names():
    assert reference.variants("quickstart") == ["proof", "strong", "dump"]
    assert reference.variants("prepare") == ["wikipedia"] and reference.variants("evolve") == []


def test_comments_are_read_where_they_stand(tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text(
        "def get_config(arg=''):\n"
        "    # Above,\n"
        "    # in two lines.\n"
        "    config.a = 1\n"
        "    config.b = 2  # beside\n"
        "    # --- heading ---\n"
        "    config.c = 3\n"
        "    # Of the section.\n"
        "    config.section = ConfigDict({\n"
        "        'd': 4,  # inside\n"
        "        'e': 5,\n"
        "    })\n"
    )
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    source, meanings = reference.Source("one"), reference.Meanings.__new__(reference.Meanings)
    meanings.found, meanings.order, meanings._sources = {}, {}, {"one": source}
    meanings._read("one", "get_config", "")
    assert meanings.found == {
        "a": "Above, in two lines.", "b": "beside", "c": "heading", "section": "Of the section.", "section.d": "inside",
    }  # fmt: skip
