"""Data that is there against the settings of preparation of a run that comes later."""

import json
from pathlib import Path

import pytest
import tiny_published

from configs import dapo, evolve, prepare, real, sft, stage2_sft
from masksearch_jax.text import added_tags, published_tokenizer, tokenizer
from masksearch_jax.workflows import prepared_data, training

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def prepared(workdir, settings, **changes):
    """W/data as `prepare` leaves it, by its manifest alone. changes: of the settings, '__' for a dot."""
    settings = settings.copy_and_resolve_references()
    settings.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    data = workdir / "data"
    data.mkdir(exist_ok=True)
    source = {"path": settings.dump, "bytes": 5}
    (data / "manifest.json").write_text(json.dumps({"settings": prepared_data.recorded(settings), "source": source}))


def page(module=dapo, arg="", **changes):
    cfg = module.get_config(arg)
    cfg.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return cfg


@pytest.mark.parametrize("module, arg", [(dapo, ""), (dapo, "dump"), (evolve, ""), (real, ""), (stage2_sft, "dump")])
def test_the_line_that_made_the_data_finds_it_again(tmp_path, capsys, module, arg):
    cfg = page(module, arg)
    prepared(tmp_path, cfg.prepare)
    training.ensure_data(cfg, tmp_path)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prepare__dump": "no/such.xml"}, 'prepare.dump is "toy" there and "no/such.xml" here'),
        ({"prepare__entities": 99}, "prepare.entities is 3000 there and 99 here"),
        ({"prepare__retrieval__hybrid": True}, "prepare.retrieval.hybrid is false there and true here"),
        ({"prepare__tasks__chat": "auto"}, "prepare.tasks.chat is"),
        ({"prepare__tasks__titles": True}, "prepare.tasks.titles is the default there and true here"),
        ({"prepare__spans": "perplexity"}, "prepare.spans is the default there"),
        ({"prepare__questions": "q.json"}, "prepare.questions is"),
    ],
)
def test_what_a_run_states_has_to_have_made_the_data(tmp_path, changes, said):
    prepared(tmp_path, page().prepare)
    with pytest.raises(ValueError, match=said) as refused:
        training.ensure_data(page(**changes), tmp_path)
    message = str(refused.value)
    assert "masksearch_jax.prepare --config=configs/prepare.py" in message and "--config.overwrite=True" in message
    assert str(tmp_path / "data") in message and "another --workdir" in message


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"dump": "wiki.xml.bz2"}, {"retrieval__hybrid": True}, {"tasks__titles": True}, {"spans": "perplexity"},
        {"tokenizer_dir": "published", "tasks__chat": "auto"},
    ],
    ids=str,
)  # fmt: skip
def test_data_of_the_command_prepare_is_trained_on_by_a_page_that_says_nothing_of_it(tmp_path, capsys, changes):
    prepared(tmp_path, prepare.get_config(), **changes)
    training.ensure_data(page(), tmp_path)
    said = capsys.readouterr().err
    # The page's own default of the toy, which is another one, counts as little.
    assert "is used as it was prepared" in said and "prepare.tasks.span_weights.date 1.0 (here 0.5)" in said
    assert all(f"prepare.{name.replace('__', '.')}" in said for name in changes) and said.count("\n") == 1
    if "dump" in changes:  # given again, as prepare was given it, or not at all
        training.ensure_data(page(arg="dump", prepare__dump=changes["dump"]), tmp_path)
        training.ensure_data(page(arg="dump"), tmp_path)
        with pytest.raises(ValueError, match=r'prepare.dump is "wiki.xml.bz2" there and "other.xml" here'):
            training.ensure_data(page(arg="dump", prepare__dump="other.xml"), tmp_path)


def test_a_recipe_takes_the_data_that_its_own_config_prepared(tmp_path, capsys):
    """The commands of docs/from_laptop_to_pod.md. On the slice the folder of the model lies in another place."""
    here, there = (tiny_published.qwen(tmp_path / place) for place in ("laptop", "mount"))
    made = page(dapo, "qwen2.5-1.5b", pretrained=str(here), prepare__dump="wiki.xml.bz2")
    prepared(tmp_path, made.prepare)
    published_tokenizer.copy(here, tmp_path / "data" / tokenizer.PUBLISHED)
    for module in (dapo, sft):
        training.ensure_data(page(module, "qwen2.5-1.5b", pretrained=str(there)), tmp_path)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f'prepare.tokenizer_dir "{here}" (here "{there}")' in said
    training.ensure_data(page(prepare__tokenizer_dir=str(there)), tmp_path)  # a config that is no recipe
    # Another tokenizer is not the data's, and neither are the prompts of a policy from scratch the recipe's.
    other = tiny_published.qwen(tmp_path / "other", thinking=False)
    with pytest.raises(ValueError, match=rf'prepare.tokenizer_dir is "{here}" there and "{other}" here'):
        training.ensure_data(page(dapo, "qwen2.5-1.5b", pretrained=str(other)), tmp_path)
    prepared(tmp_path, prepare.get_config("wikipedia"), tokenizer_dir=str(there))
    with pytest.raises(ValueError, match=r'prepare.tasks.chat is "" there and "auto" here'):
        training.ensure_data(page(dapo, "qwen2.5-1.5b", pretrained=str(there)), tmp_path)


def test_added_tags_are_part_of_the_tokenizer_that_is_compared(tmp_path):
    here, there = (tiny_published.qwen(tmp_path / place) for place in ("laptop", "mount"))
    made = page(dapo, "qwen2.5-1.5b", pretrained=str(here), prepare__tokenizer__added_tags=True)
    prepared(tmp_path, made.prepare)
    added_tags.add_tags(published_tokenizer.copy(here, tmp_path / "data" / tokenizer.PUBLISHED).path)
    training.ensure_data(page(dapo, "qwen2.5-1.5b", pretrained=str(there)), tmp_path)


def test_a_page_of_its_own_states_what_it_says(tmp_path):
    prepared(tmp_path, page().prepare)
    with pytest.raises(ValueError, match=r"prepare.corroborated is the default there and true here"):
        training.ensure_data(page(real), tmp_path)


def test_several_seeds_may_share_data(tmp_path, capsys):
    prepared(tmp_path, page().prepare)
    training.ensure_data(page(seed=7), tmp_path)
    assert "prepare.seed 0 (here 7)" in capsys.readouterr().err


def test_a_dump_that_is_another_file_by_now(tmp_path):
    dump = tmp_path / "dump.xml"
    dump.write_text("12345")
    cfg = page(prepare__dump=str(dump))
    prepared(tmp_path, cfg.prepare)
    training.ensure_data(cfg, tmp_path)
    dump.write_text("123456")
    with pytest.raises(ValueError, match="when it had 5 bytes, and it has 6 now"):
        training.ensure_data(cfg, tmp_path)


def test_data_that_is_older_than_a_setting_and_damaged_manifests(tmp_path, capsys):
    prepared(tmp_path, page().prepare)
    path = tmp_path / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["newer_dump"]
    path.write_text(json.dumps(manifest))
    training.ensure_data(page(), tmp_path)
    assert not capsys.readouterr().err
    path.write_text("{")
    with pytest.raises(ValueError, match=r"data/manifest.json is not JSON .*prepare it again"):
        training.ensure_data(page(), tmp_path)
