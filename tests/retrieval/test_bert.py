import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_bert
import tokenizers

from masksearch_jax.retrieval.encoders import bert, encoder
from masksearch_jax.retrieval.index import build
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.tool import SearchTool

STORED = json.loads(Path(__file__).with_name("bert_vectors.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_bert.write(directory)
    return directory


def open_encoder(directory, pooling="auto", query_prefix="", passage_prefix="", max_length=64, **how):
    return bert.BertEncoder.from_checkpoint(directory, pooling, query_prefix, passage_prefix, max_length, **how)


@pytest.fixture(scope="module")
def made(checkpoint):
    return open_encoder(checkpoint)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_vectors_stored_from_transformers(checkpoint, pooling):
    found = open_encoder(checkpoint, pooling)
    for encode in (found.encode_queries, found.encode_passages):
        np.testing.assert_allclose(encode(tiny_bert.TEXTS), STORED[pooling], atol=3e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_equals_transformers(checkpoint, pooling):
    pytest.importorskip("torch", reason="the vectors stored from it are tested instead")
    pytest.importorskip("transformers", reason="the vectors stored from it are tested instead")
    ids = [tiny_bert.ids_of(text) for text in tiny_bert.TEXTS]
    truth = tiny_bert.reference(ids, tiny_bert.CONFIG, tiny_bert.tensors())
    np.testing.assert_allclose(
        open_encoder(checkpoint, pooling).encode_queries(tiny_bert.TEXTS), truth[pooling], atol=3e-6
    )


def test_names_with_the_prefix_of_whole_models_and_half_precision(tmp_path):
    tiny_bert.write(tmp_path / "prefixed", prefix="bert.")
    np.testing.assert_allclose(
        open_encoder(tmp_path / "prefixed").encode_queries(tiny_bert.TEXTS), STORED["mean"], atol=3e-6
    )
    half = {name: tensor.astype(np.float16) for name, tensor in tiny_bert.tensors().items()}
    safetensors.numpy.save_file(half, tmp_path / "prefixed/model.safetensors")
    np.testing.assert_allclose(
        open_encoder(tmp_path / "prefixed").encode_queries(tiny_bert.TEXTS), STORED["mean"], atol=0.02
    )


def test_tokenizer_json_equals_vocab_txt_whatever_limits_it_carries(tmp_path, checkpoint, made):
    shutil.copytree(checkpoint, tmp_path / "json")
    written = tokenizers.BertWordPieceTokenizer(str(checkpoint / "vocab.txt"))
    written.enable_padding(length=6)
    written.enable_truncation(6)
    written.save(str(tmp_path / "json/tokenizer.json"))
    (tmp_path / "json/vocab.txt").unlink()
    found = open_encoder(tmp_path / "json").encode_queries(tiny_bert.TEXTS)
    np.testing.assert_array_equal(found, made.encode_queries(tiny_bert.TEXTS))


def test_prefixes_and_max_length(checkpoint, made):
    prefixed = open_encoder(checkpoint, query_prefix="the ", passage_prefix="a dog ")
    np.testing.assert_array_equal(prefixed.encode_queries(["cat sat"]), made.encode_queries(["the cat sat"]))
    np.testing.assert_array_equal(prefixed.encode_passages(["ran"]), made.encode_passages(["a dog ran"]))
    short = open_encoder(checkpoint, max_length=5)
    np.testing.assert_allclose(
        short.encode_queries(["the cat sat on the mat"]), made.encode_queries(["the cat sat"]), atol=1e-6
    )


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(made):
    words = "the cat sat on mat dog a ran and".split()
    texts = [" ".join(words[(i * j) % 9] for j in range(1, 1 + i % 50)) for i in range(1, 60)]
    texts = [text for text in texts if text]
    for encode in (made.encode_queries, made.encode_passages):
        together = encode(texts)
        np.testing.assert_array_equal(together, np.concatenate([encode([text]) for text in texts]))
        np.testing.assert_array_equal(together[::-1], encode(texts[::-1]))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_few_programs_are_compiled(checkpoint):
    before = bert._embed._cache_size()
    for _ in range(2):  # one after another, as for the indices of two splits
        found = open_encoder(checkpoint)
        for count in (1, 3, 9, 29):
            found.encode_queries(["the cat " * length for length in range(1, 30)][:count])
    assert bert._embed._cache_size() - before <= 3  # texts of up to 16, 32 and 64 tokens


def test_threads_get_the_same(made):
    expected = made.encode_queries(tiny_bert.TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: made.encode_queries(tiny_bert.TEXTS), range(16)):
            np.testing.assert_array_equal(found, expected)


def devices_of(placed):
    return {device for leaf in jax.tree.leaves(placed.params) for device in leaf.devices()}


def test_stays_on_one_cpu_device(made):
    assert devices_of(made._host) == devices_of(made._passages) == {jax.devices("cpu")[0]}


@pytest.mark.slow
def test_passages_over_all_devices_equal_those_of_one(checkpoint, made):
    spread = open_encoder(checkpoint, devices="local")
    assert devices_of(spread._passages) == set(jax.local_devices()) and len(jax.local_devices()) == 8
    assert devices_of(spread._host) == devices_of(made._host)
    texts = [" ".join(["the cat sat on mat dog a ran".split()[(i * j) % 8] for j in range(i % 40)]) for i in range(90)]
    np.testing.assert_array_equal(spread.encode_passages(texts), made.encode_passages(texts))
    assert spread.fingerprint == made.fingerprint


def test_padding_is_eight_tokens_or_an_eighth_at_most():
    for most in (5, 64, 250, 512, 1000):
        lengths = bert._passage_lengths(most)
        assert lengths == sorted(set(lengths)) and lengths[-1] == most
        for length, next_one in zip(lengths, lengths[1:], strict=False):
            assert next_one - length <= max(8, length / 8)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_bfloat16_is_near_and_named_apart(tmp_path, checkpoint, pooling):
    exact, rounded = open_encoder(checkpoint, pooling), open_encoder(checkpoint, pooling, dtype="bfloat16")
    for encode in ("encode_queries", "encode_passages"):
        found, truth = (getattr(one, encode)(tiny_bert.TEXTS) for one in (rounded, exact))
        assert found.dtype == np.float32 and 0.999 < (found * truth).sum(1).min() and (found != truth).any()
    assert rounded.fingerprint != exact.fingerprint
    rounded.save(tmp_path)
    np.testing.assert_array_equal(
        encoder.load(tmp_path).encode_queries(tiny_bert.TEXTS), rounded.encode_queries(tiny_bert.TEXTS)
    )


def test_empty_texts_say_nothing(made):
    assert not made.encode_queries(["", "  "]).any()
    assert made.encode_queries([]).shape == (0, 12)


def test_save_and_load(tmp_path, checkpoint):
    saved = open_encoder(checkpoint, "cls", query_prefix="the ", max_length=20)
    saved.save(tmp_path)
    loaded = encoder.load(tmp_path)
    np.testing.assert_array_equal(loaded.encode_queries(tiny_bert.TEXTS), saved.encode_queries(tiny_bert.TEXTS))
    assert loaded.fingerprint == saved.fingerprint != open_encoder(checkpoint, "cls").fingerprint


def test_an_index_carries_its_encoder(tmp_path, corpus, store, checkpoint):
    own = tmp_path / "own"
    shutil.copytree(checkpoint, own)
    config = {"encoder": "bert", "encoder_dir": str(own), "max_length": 48, "index": "exact"}
    report = build.build_index(tmp_path / "index", corpus, config)
    assert (report["encoder"], report["dims"]) == ("bert", 12)
    shutil.rmtree(own)
    hits = SearchTool.load(tmp_path / "index", store).search([Query("the cat", 7, 2), Query("")], 3)
    assert [len(found) for found in hits] == [3, 0] and 7 not in [hit.passage_id for hit in hits[0]]


def test_what_is_missing_or_different_is_named(tmp_path, checkpoint):
    def damaged(name):
        shutil.copytree(checkpoint, tmp_path / name)
        return tmp_path / name

    def with_config(name, **changed):
        directory = damaged(name)
        (directory / "config.json").write_text(json.dumps(tiny_bert.CONFIG | changed))
        return directory

    no_weights = damaged("no_weights")
    (no_weights / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no_weights has no model.safetensors"):
        open_encoder(no_weights)
    no_tokenizer = damaged("no_tokenizer")
    (no_tokenizer / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor vocab.txt"):
        open_encoder(no_tokenizer)
    no_pooling = damaged("no_pooling")
    (no_pooling / "1_Pooling/config.json").unlink()
    with pytest.raises(ValueError, match="retrieval.pooling cannot be 'auto': set 'mean'"):
        open_encoder(no_pooling)
    both = damaged("both")
    (both / "1_Pooling/config.json").write_text('{"pooling_mode_max_tokens": true, "pooling_mode_cls_token": true}')
    with pytest.raises(ValueError, match="pooling is"):
        open_encoder(both)
    with pytest.raises(ValueError, match="model_type is 'xlm-roberta', this encoder computes 'bert' only"):
        open_encoder(with_config("roberta", model_type="xlm-roberta"))
    with pytest.raises(ValueError, match=r"'encoder\.layer\.3\.attention\.\S+'; is it"):
        open_encoder(with_config("deep", num_hidden_layers=4))
    with pytest.raises(ValueError, match=r"word_embeddings.weight' is \(19, 12\), config.json says \(25, 12\)"):
        open_encoder(with_config("wide", vocab_size=25))
