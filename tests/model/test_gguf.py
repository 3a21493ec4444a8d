"""GGUF files become folders that hold the same model and tokenizer, or are refused by name."""

import json

import gguf
import gguf_files
import numpy as np
import published
import pytest
import tiny_published
from safetensors.numpy import load_file

from masksearch_jax.model import transformer
from masksearch_jax.model.published import gguf as gguf_folder
from masksearch_jax.model.published import load
from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.workflows import conversion as convert_entry

TYPES = gguf.GGMLQuantizationType
TEXTS = [*tiny_published.TEXTS[:4], "In 1984,  12345 people;\n\n日本語 Привет ½ x² don't", "<|im_end|> as text"]
# Gemma 3 with what its files cannot say left as published.
GEMMA = published.CONFIGS["gemma3"] | {
    "num_hidden_layers": 6, "head_dim": 256, "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000.0,
    "rope_scaling": None, "sliding_window_pattern": 6,
}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """{family: tokenizer folder} of tiny tokenizers as published models have them."""
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "qwen2": (tiny_published.qwen(folder / "qwen"), "qwen2"),
        "qwen3": (tiny_published.qwen(folder / "qwen3"), "qwen2"),
        "llama": (tiny_published.llama(folder / "llama"), "llama-bpe"),
        "gemma3_text": (tiny_published.gemma(folder / "gemma"), ""),
    }


def case(name, monkeypatch, tokenizers):
    """(config, weights, tokenizer folder, splitter) of a family, with rows for the tokenizer's whole vocabulary."""
    config = GEMMA if name == "gemma3" else published.CONFIGS[name]
    monkeypatch.setitem(published.CONFIGS, name, config)
    published.weights.cache_clear()
    weights = dict(published.weights(name))
    published.weights.cache_clear()
    folder, pre = tokenizers[config["model_type"]]
    size = PublishedTokenizer(folder).vocab_size
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        if tensor in weights:
            weights[tensor] = np.resize(weights[tensor], (size, config["hidden_size"]))
    return config | {"vocab_size": size}, weights, folder, pre


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_untied", "llama3", "gemma3"])
def test_the_folder_holds_the_same_model(name, tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case(name, monkeypatch, tokenizers)
    file = gguf_files.write(tmp_path / "m.gguf", config, weights, folder, pre)
    made = gguf_folder.convert_gguf(file, tmp_path / "hf")
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert set(found) == set(weights)
    for tensor in weights:
        np.testing.assert_allclose(found[tensor], weights[tensor], rtol=0, atol=2e-7, err_msg=tensor)
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    for key in (*kept, "vocab_size", "model_type", "tie_word_embeddings", "max_position_embeddings"):
        assert made[key] == config[key], key
    assert made["rope_theta"] == config["rope_theta"]
    assert made["rms_norm_eps"] == pytest.approx(config["rms_norm_eps"], rel=1e-6)
    ours, theirs = PublishedTokenizer(tmp_path / "hf"), PublishedTokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
    assert (ours.eos_id, ours.pad_id, ours.prefix_ids) == (theirs.eos_id, theirs.pad_id, theirs.prefix_ids)


def test_rotary_rows_are_not_left_as_the_file_has_them(tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("llama3", monkeypatch, tokenizers)
    rows = weights["model.layers.0.self_attn.q_proj.weight"]
    assert not np.array_equal(gguf_files.interleaved(rows, config["num_attention_heads"]), rows)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_weights_are_what_the_library_reads(kind, tmp_path, monkeypatch, tokenizers):
    """Widths are multiples of 32, as block quantisation wants them. The error is bounded by the width of a step."""
    config = published.CONFIGS["llama3"] | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
    monkeypatch.setitem(published.CONFIGS, "llama3", config)
    config, weights, folder, pre = case("llama3", monkeypatch, tokenizers)
    file = gguf_files.write(tmp_path / "m.gguf", config, weights, folder, pre, TYPES[kind])
    gguf_folder.convert_gguf(file, tmp_path / "hf")
    found = load_file(tmp_path / "hf" / "model.safetensors")
    rows = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, array in weights.items():
        if array.ndim != 2:
            continue
        heads = next((n for part, n in rows.items() if part in name), 0)
        # Rows are quantised one by one, so their order does not matter.
        read = gguf.dequantize(gguf.quantize(array, TYPES[kind]), TYPES[kind])
        np.testing.assert_array_equal(found[name], read, err_msg=f"{name} {heads}")


def test_llama_31_scaling_is_read_off_its_factors(tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("llama3", monkeypatch, tokenizers)
    config |= {"rope_theta": 500000.0}
    # Llama 3.1's published formula, written out: what each frequency is divided by.
    factors = []
    for i in range(0, config["head_dim"], 2):
        wavelength = 2 * np.pi * 500000.0 ** (i / config["head_dim"])
        if wavelength < 8192 / 4.0:
            factors.append(1.0)
        elif wavelength > 8192 / 1.0:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    extra = {"rope_freqs.weight": np.array(factors)}
    file = gguf_files.write(tmp_path / "m.gguf", config, weights, folder, pre, extra=extra)
    assert gguf_folder.convert_gguf(file, tmp_path / "hf")["rope_scaling"] == {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    odd = {"rope_freqs.weight": np.linspace(1, 8, config["head_dim"] // 2)}
    file = gguf_files.write(tmp_path / "odd.gguf", config, weights, folder, pre, extra=odd)
    with pytest.raises(ValueError, match="odd.gguf: the factors in rope_freqs.weight"):
        gguf_folder.convert_gguf(file, tmp_path / "no")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("architecture", "general.architecture='mamba' is none of"),
        ("missing", r"lacks the tensor blk.1.ffn_up.weight"),
        ("unknown", r"the tensor blk.0.ffn_gate_exps.weight is none"),
        ("shape", "has the shape"),
        ("not_finite", "blk.0.ffn_up.weight holds values that are not finite"),
        ("cut", "cut or damaged|ends within"),
        ("text", "is no GGUF file"),
        ("pointer", "pointer of git-lfs"),
        ("absent", "does not exist"),
    ],
)
def test_a_bad_file_is_refused_by_name(damage, says, tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("qwen2", monkeypatch, tokenizers)
    ff, embed = config["intermediate_size"], config["hidden_size"]
    extra = {
        "missing": {"blk.1.ffn_up.weight": None},
        "unknown": {"blk.0.ffn_gate_exps.weight": np.zeros((ff, embed))},
        "shape": {"blk.0.ffn_up.weight": np.zeros((ff + 1, embed))},
        "not_finite": {"blk.0.ffn_up.weight": np.full((ff, embed), np.nan)},
    }.get(damage)
    if damage == "architecture":
        monkeypatch.setitem(gguf_files.ARCHITECTURES, "qwen2", "mamba")
    file = gguf_files.write(tmp_path / "bad.gguf", config, weights, folder, pre, extra=extra)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-4000])
    elif damage == "text":
        file.write_bytes(b"<html>not found</html>")
    elif damage == "pointer":
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif damage == "absent":
        file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=says) as raised:
        gguf_folder.convert_gguf(file, tmp_path / "hf")
    assert "bad.gguf" in str(raised.value)
    assert not (tmp_path / "hf").exists()


def test_every_cut_of_a_file_is_refused(tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("qwen2", monkeypatch, tokenizers)
    data = gguf_files.write(tmp_path / "whole.gguf", config, weights, folder, pre).read_bytes()
    for part in range(1, 20):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(data[: len(data) * part // 20])
        with pytest.raises(ValueError, match="cut.gguf"):
            gguf_folder.GgufFile(cut)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("tokenizer.ggml.pre", "bloom", "pre='bloom' is none of"),
        ("tokenizer.ggml.model", "bert", "model='bert'"),
        ("tokenizer.ggml.tokens", None, "has no tokenizer.ggml.tokens"),
        ("tokenizer.ggml.merges", [], "has no tokenizer.ggml.merges"),
        ("tokenizer.ggml.eos_token_id", 10**6, "eos_token_id=1000000"),
        ("tokenizer.ggml.add_eos_token", True, "appends a token"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(field, value, says, tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("qwen2", monkeypatch, tokenizers)
    metadata = gguf_folder.GgufFile(gguf_files.write(tmp_path / "m.gguf", config, weights, folder, pre)).metadata
    with pytest.raises(ValueError, match=says):
        gguf_folder.gguf_tokenizer.tokenizer_files(metadata | {field: value}, "m.gguf")


def test_the_chat_template_is_kept(tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("qwen2", monkeypatch, tokenizers)
    template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    gguf_folder.convert_gguf(gguf_files.write(tmp_path / "m.gguf", config, weights, folder, pre), tmp_path / "hf")
    kept = tmp_path / "hf" / "chat_template.jinja"
    assert (kept.read_text() if kept.exists() else None) == template


def test_the_command_writes_all_or_nothing(tmp_path, monkeypatch, tokenizers):
    config, weights, folder, pre = case("qwen2", monkeypatch, tokenizers)
    file = gguf_files.write(tmp_path / "m.gguf", config, weights, folder, pre)
    convert_entry.from_gguf(file, tmp_path / "new" / "hf")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"hf"}
    cfg, params = load.load_pretrained(tmp_path / "new" / "hf", mesh_lib.make_mesh(1, 1, 1))
    ids = published.ids("qwen2")
    index = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    hidden = transformer.forward(cfg, params, ids, index, np.ones_like(index))
    # The embeddings of the 64 tokens of the stored logits come first.
    logits = transformer.unembed(cfg, params, hidden)[..., : published.VOCAB]
    assert np.abs(logits - published.stored("qwen2")[0]).max() <= 1e-4
    with pytest.raises(FileExistsError):
        convert_entry.from_gguf(file, tmp_path / "new" / "hf")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="m.gguf"):
        convert_entry.from_gguf(file, tmp_path / "other" / "hf")
    assert not list((tmp_path / "other").iterdir())
