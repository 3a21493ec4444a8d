"""Training that starts from a published folder: `--config.pretrained=HF_FOLDER`."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny_published

from masksearch_jax.model import transformer
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.model.published import export
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.json_files import write_json
from masksearch_jax.text import added_tags, tags
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.workflows import conversion, evaluation, training
from masksearch_jax.workflows.context import RunContext


def published(folder, vocab_size):
    """Writes a random Qwen2 in the published format; returns its parameters."""
    cfg = ModelConfig(
        vocab_size=vocab_size, layers=2, embed=32, heads=2, kv_heads=1, head_dim=16, ff=48, mlp="swiglu",
        rope_fraction=1.0, qkv_bias=True, smear_keys=False,
    )  # fmt: skip
    params = transformer.init_params(cfg, 7, mesh_lib.make_mesh(1, 1, 1))
    export.save_pretrained(folder, cfg, params)
    return params


def test_sft_starts_from_the_published_weights_and_moves_them(cfg, workdir, tmp_path):
    padded = RunContext(cfg, workdir).tokenizer.vocab_size + 5  # published tables have spare rows
    expected = published(tmp_path / "published", padded)
    cfg.pretrained = str(tmp_path / "published")
    cfg.sft.update({"steps": 1, "checkpoint_every": 1})
    context = RunContext(cfg, workdir)
    assert context.model_cfg.vocab_size == padded and context.model_cfg.mlp == "swiglu"
    for found in (context.initial(), evaluation.parameters(context, "untrained")):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    training.ensure_demonstrations(context)
    trained = training.train_sft(context)
    # Adam moves a weight by about the learning rate: far less than two random models differ.
    largest = max(float(abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (trained, expected)), strict=True))
    assert 0 < largest < 0.1


def test_a_model_with_too_few_embeddings_is_refused(cfg, workdir, tmp_path):
    size = RunContext(cfg, workdir).tokenizer.vocab_size
    published(tmp_path / "published", size - 1)
    cfg.pretrained = str(tmp_path / "published")
    with pytest.raises(ValueError, match=f"{size - 1} embeddings for the {size} tokens"):
        _ = RunContext(cfg, workdir).model_cfg


@pytest.mark.parametrize("spare", [0, 30])
def test_our_tags_as_added_tokens_get_rows_that_sft_trains(spare, cfg, workdir, tmp_path):
    """The published rows end where the tags begin, or go on: as prepare.tokenizer.added_tags leaves a tokenizer."""
    before = PublishedTokenizer(tiny_published.qwen(tmp_path / "data", thinking=False))
    folder = tmp_path / "published"
    expected = np.asarray(published(folder, before.vocab_size + spare)["embedding"])
    tiny_published.qwen(folder, thinking=False)
    added_tags.add_tags(tmp_path / "data")
    cfg.pretrained = str(folder)
    context = RunContext(cfg, workdir)
    context.__dict__["tokenizer"] = PublishedTokenizer(tmp_path / "data")
    rows = len(expected) if spare else -(-(before.vocab_size + len(tags.ALL)) // 16) * 16
    found = np.asarray(context.initial()["embedding"])
    assert context.model_cfg.vocab_size == rows == len(found)
    np.testing.assert_array_equal(found[: before.vocab_size], expected[: before.vocab_size])
    for place, tag in enumerate(tags.ALL):
        row = expected[before.encode(tag)].mean(0)
        np.testing.assert_allclose(found[before.vocab_size + place], row, rtol=1e-5, atol=1e-7)
    # A stage of this model leaves with its tokenizer, and training starts from what it left without adding anything.
    shutil.copytree(tmp_path / "data", workdir / "data" / "tokenizer")
    checkpoints = Checkpointer(workdir / "sft" / "checkpoints", background=False)
    checkpoints.save(1, {"params": context.initial()}, {}, {})
    checkpoints.close()
    write_json(workdir / "sft" / "config.json", {"model": dataclasses.asdict(context.model_cfg)})
    conversion.to_published(workdir / "sft", tmp_path / "left", like=folder)
    assert PublishedTokenizer(tmp_path / "left").encode("<search>") == context.tokenizer.encode("<search>")
    cfg.pretrained = str(tmp_path / "left")
    again = RunContext(cfg, workdir)
    again.__dict__["tokenizer"] = context.tokenizer
    np.testing.assert_array_equal(again.initial()["embedding"], found)
    cfg.pretrained, cfg.lora.rank = str(folder), 4
    refused = RunContext(cfg, workdir)
    refused.__dict__["tokenizer"] = context.tokenizer
    with pytest.raises(ValueError, match=r"lora.rank=4 with prepare.tokenizer.added_tags"):
        _ = refused.model_cfg
