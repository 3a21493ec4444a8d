"""What a published model decides of the settings, where it is found, and that one error names all that is wrong."""

import json

import pytest
import tiny_published
from fake_hub import hub as hub  # the fixture
from test_configs import load

from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import families
from masksearch_jax.model.published import load as weights
from masksearch_jax.workflows import data_preparation, pretrained_model, training
from masksearch_jax.workflows.problems import Problems, SeveralProblems

SMALL = ModelConfig(
    vocab_size=512, layers=2, embed=32, heads=2, kv_heads=1, head_dim=16, ff=48, mlp="swiglu", rope_fraction=1.0,
    qkv_bias=True, smear_keys=False,
)  # fmt: skip


def published(folder, context=8192, template=True):
    """Write what `settle` reads of a published folder; it holds no weights."""
    tiny_published.qwen(folder, thinking=False)
    if not template:
        told = json.loads((folder / "tokenizer_config.json").read_text())
        del told["chat_template"]
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
    config = families.to_hf(SMALL, "float32") | {"max_position_embeddings": context}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def own(folder, **settings):
    cfg = load("own_model")
    cfg.sft.rows = cfg.dapo.rows = 8  # over eight devices
    cfg.update_from_flattened_dict({"pretrained": str(folder), **settings})
    return cfg


def test_a_small_model_is_trained_whole_and_a_large_one_by_adapters(tmp_path, capsys):
    folder = published(tmp_path / "model")
    size = weights.count_parameters(SMALL)
    cfg = own(folder, adapters_above=size)
    pretrained_model.settle(cfg)
    assert cfg.lora.rank == 0 and "--config.adapters_above=0 trains adapters" in capsys.readouterr().err
    assert (cfg.sft.optimizer.kind, cfg.sft.optimizer.learning_rate) == ("adamw", 1e-5)
    assert cfg.dapo.optimizer.learning_rate == 1e-6
    for _ in range(2):  # a second call changes nothing
        cfg = own(folder, adapters_above=size - 1)
        cfg.dapo.optimizer.learning_rate = 3e-6
        pretrained_model.settle(cfg)
        assert cfg.lora.rank == 16 and cfg.sft.optimizer.learning_rate == 1e-4
        assert cfg.dapo.optimizer.learning_rate == 3e-6  # as it was asked for
    cfg = own(folder, adapters_above=0)
    pretrained_model.settle(cfg)
    assert cfg.lora.rank == 16  # whatever the size


def test_a_folder_without_a_template_gets_the_prompts_of_a_base_model(tmp_path, capsys):
    cfg = own(published(tmp_path / "model", template=False))
    pretrained_model.settle(cfg)
    assert (cfg.prepare.tasks.chat, cfg.prepare.tasks.system) == ("", "")
    assert "holds no chat template, so prompts are those of a base model" in capsys.readouterr().err
    asked = own(tmp_path / "model", **{"prepare.tasks.chat": "auto", "prepare.dump": "toy"})
    with pytest.raises(ValueError, match="no chat template"):  # who asks for one gets an error
        training.validate_training(asked, tmp_path / "w")
    cfg = own(published(tmp_path / "instruct"))
    pretrained_model.settle(cfg)
    assert (cfg.prepare.tasks.chat, cfg.prepare.tasks.system) == ("auto", "default")


def test_a_short_context_makes_short_episodes(tmp_path, capsys):
    cfg = own(published(tmp_path / "model", context=448))
    pretrained_model.settle(cfg)
    before = load("own_model")
    assert cfg.episode.total_tokens == 448 and cfg.prepare.passages.words == before.prepare.passages.words // 2
    assert cfg.rollout.prompt_lengths == tuple(length // 2 for length in before.rollout.prompt_lengths)
    assert "episodes have 448 tokens, the context of the model, in place of 896" in capsys.readouterr().err
    cfg.prepare.dump = "toy"
    training.validate_training(cfg, tmp_path / "w")
    kept = own(tmp_path / "model", **{"prepare.passages.words": 50})
    pretrained_model.settle(kept)
    assert kept.prepare.passages.words == 50
    with pytest.raises(ValueError, match=r"episode.total_tokens=600: .*config.json says max_position_embeddings=448"):
        pretrained_model.settle(own(tmp_path / "model", **{"episode.total_tokens": 600}))
    with pytest.raises(ValueError, match=r"episode.total_tokens=896: .*max_position_embeddings=100"):
        pretrained_model.settle(own(published(tmp_path / "tiny", context=100)))


def test_a_name_of_the_hub_becomes_a_folder_and_stays_the_same_commit(hub, tmp_path):
    folder = published(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    first = hub.add("some-org/model", "main", folder)
    for _ in range(2):
        cfg = own("some-org/model", **{"prepare.tasks.system": "Search."})
        pretrained_model.settle(cfg, tmp_path / "w")
        assert cfg.pretrained.endswith(first) and cfg.pretrained_revision == first
        assert cfg.prepare.tokenizer_dir == cfg.pretrained
        pretrained_model.settle(cfg, tmp_path / "w")  # once more, in the same command
        assert cfg.pretrained.endswith(first)
        # main moves on, and this run does not.
        (folder / "generation_config.json").write_text("{}")
        second = hub.add("some-org/model", "main", folder)
    assert json.loads((tmp_path / "w" / "pretrained.json").read_text())["commit"] == first
    cfg = load("dapo")
    cfg.pretrained = cfg.prepare.tokenizer_dir = "some-org/model@main"
    pretrained_model.settle(cfg, tmp_path / "w2")
    assert cfg.pretrained.endswith(second) and cfg.prepare.tokenizer_dir == cfg.pretrained


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"pretrained": "", "pretrained_revision": "v1"}, r"pretrained_revision='v1' without a model"),
        ({"pretrained_revision": "v1"}, r"pretrained_revision='v1' is of a model on the .* is a folder here"),
        ({"pretrained": "a/b@v2", "pretrained_revision": "v1"}, r"'a/b@v2' and pretrained_revision='v1' name two"),
    ],
)
def test_contradicting_revisions(settings, message, tmp_path):
    cfg = own(published(tmp_path / "model"), **settings)
    with pytest.raises(ValueError, match=message):
        pretrained_model.settle(cfg)


def test_one_error_names_all_that_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "prepare.dump": "none.jsonl", "prepare.questions": "none.json", "dapo.groups": 99, "sft.rows": 0,
        "prepare.benchmarks.hotpotqa": "none.json.gz",
    }  # fmt: skip
    cfg = own(tmp_path / "none", **settings)
    with pytest.raises(SeveralProblems) as caught:
        training.run(cfg, tmp_path / "w")
    wanted = (*settings, "pretrained='")
    assert not [name for name in wanted if not any(message.startswith(name) for message in caught.value.found)]
    assert str(caught.value).startswith(f"{len(caught.value.found)} things are wrong:\n  - ")
    assert not (tmp_path / "w").exists()
    # The command that prepares judges what it reads itself.
    with pytest.raises(SeveralProblems, match=r"(?s)pretrained=.*prepare.dump='none.jsonl'.*prepare.questions"):
        data_preparation.main(own(tmp_path / "none", **settings), tmp_path / "w")
    # With fresh parameters nothing is missing but the model and the corpus.
    with pytest.raises(SeveralProblems, match=r"(?s)2 things .*pretrained='': .*prepare.dump='': name the corpus"):
        training.run(own(""), tmp_path / "w")


def test_a_model_with_a_tokenizer_of_the_data_is_refused_before_the_data_is_made(tmp_path):
    cfg = load("dapo")
    cfg.pretrained = str(published(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"prepare.tokenizer_dir='' with pretrained=.*never seen; give --config.prep"):
        training.run(cfg, tmp_path / "w")


def test_one_problem_keeps_its_own_error_and_consequences_are_left_out():
    problems = Problems()
    problems.raise_found()
    with pytest.raises(TypeError):
        problems.check(len, 3)  # a mistake of ours
    assert not problems.check(open, "/nowhere/at/all")
    assert not problems.check(len, 3)  # maybe a consequence of the first
    assert problems.check(len, "abc")
    with pytest.raises(FileNotFoundError):
        problems.raise_found()
    problems.check(int, "x")
    problems.check(int, "x")
    with pytest.raises(SeveralProblems, match=r"2 things are wrong:\n  - .*nowhere.*\n  - invalid literal"):
        problems.raise_found()
