"""Folders of BERT encoders: what their files say is computed, or refused by the name of the file."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tiny_bert
from fuzzing import fuzz
from hypothesis import strategies as st

from masksearch_jax.retrieval.encoders.bert import BertEncoder

FILES = (
    "config.json",
    "model.safetensors",
    "1_Pooling/config.json",
    "modules.json",
    "vocab.txt",
    "tokenizer_config.json",
)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert") / "encoder"
    tiny_bert.write(folder)
    (folder / "modules.json").write_text(json.dumps(MODULES))
    return folder


def open_encoder(folder):
    return BertEncoder.from_checkpoint(folder, "auto", "", "", 64)


def with_json(folder, name, value):
    (folder / name).write_text(json.dumps(value))


def with_config(change):
    return lambda folder: with_json(folder, "config.json", tiny_bert.CONFIG | change)


def with_tensors(change):
    return lambda folder: safetensors.numpy.save_file(tiny_bert.tensors() | change, folder / "model.safetensors")


_WORDS = "embeddings.word_embeddings.weight"
_DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (with_config({"num_hidden_layers": 2}), "model.safetensors holds 16 tensors that config.json has no place"),
        (with_config({"hidden_size": "12"}), "config.json: hidden_size is '12'"),
        (with_config({"vocab_size": None}), "config.json: vocab_size is None"),
        (with_config({"num_attention_heads": 5}), "config.json: num_attention_heads = 5 does not divide"),
        (with_config({"layer_norm_eps": float("nan")}), "config.json: layer_norm_eps is nan"),
        (with_config({"is_decoder": True}), "config.json: is_decoder = True"),
        (with_config({"quantization_config": {"bits": 4}}), "config.json: quantization_config"),
        (with_tensors({_WORDS: np.ones((19, 12), np.int8)}), f"model.safetensors: the tensor '{_WORDS}' is int8"),
        (with_tensors({_WORDS: np.ones((5, 12), np.float32)}), f"model.safetensors: tensor '{_WORDS}' is"),
        (lambda folder: with_json(folder, "modules.json", [*MODULES[:2], _DENSE]), "modules.json: Dense; this encoder"),
        (lambda folder: with_json(folder, "modules.json", {"a": 1}), "modules.json holds no list"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is no tokenizer"),
        (lambda folder: (folder / "vocab.txt").open("a").write("more\n"), "the tokenizer has 20 tokens, config.json"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is not JSON"),
        (lambda folder: with_json(folder, "tokenizer_config.json", {"do_lower_case": "no"}), "do_lower_case is 'no'"),
    ],
)  # fmt: skip
def test_what_would_give_other_vectors_is_refused_by_the_name_of_the_file(damage, says, whole, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(whole, folder)
    damage(folder)
    with pytest.raises(ValueError, match=says) as raised:
        open_encoder(folder)
    assert str(folder) in str(raised.value)


def test_tensors_beside_the_network_change_nothing(whole, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(whole, folder)
    beside = {"embeddings.position_ids": np.arange(64)[None], "pooler.dense.weight": np.ones((12, 12), np.float32)}
    beside["cls.predictions.bias"] = np.ones(19, np.float32)
    with_tensors(beside)(folder)
    np.testing.assert_array_equal(
        *(open_encoder(at).encode_queries(["the cat sat on a dog"]) for at in (whole, folder))
    )


_SMALL = st.one_of(st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(), st.text(max_size=5))
_ANY = st.one_of(_SMALL, st.lists(_SMALL, max_size=2), st.dictionaries(st.text(max_size=4), _SMALL, max_size=2))


def right_or_named(folder):
    """The encoder of a damaged folder, or None where it is refused as documented, by a file of it."""
    try:
        return open_encoder(folder)
    except (ValueError, FileNotFoundError) as error:
        assert str(folder) in str(error), error
        return None


@fuzz(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3),
    st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.0]),
    examples=60,
)
def test_fuzz_bytes_of_an_encoder_folder(whole, tmp_path, name, flips, share):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    data = bytearray((folder / name).read_bytes())
    reach = min(len(data), 3000)
    for where, flip in flips:
        data[min(int(where * reach), reach - 1)] ^= flip
    (folder / name).write_bytes(data[: int(len(data) * share)])
    encoder = right_or_named(folder)
    assert encoder is None or encoder.dims == 12


@fuzz(st.sampled_from(["config.json", "1_Pooling/config.json", "tokenizer_config.json"]), st.data(), examples=60)
def test_fuzz_settings_of_an_encoder_folder(whole, tmp_path, name, data):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    content = json.loads((folder / name).read_text())
    content[data.draw(st.sampled_from([*sorted(content), "is_decoder", "do_lower_case"]))] = data.draw(_ANY)
    with_json(folder, name, content)
    encoder = right_or_named(folder)
    assert encoder is None or encoder.dims == 12
