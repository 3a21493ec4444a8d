"""Small tokenizers with the parts of published ones, trained here and saved as a Hugging Face folder.

Their texts make tags into many tokens, some of which end a tag and go on: '>\\n', '></', '.</'.
"""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEMPLATES = Path(__file__).parent / "text" / "chat_templates"
TEXTS = [
    "<think> the river city was founded near Tolmar.</think><search> Karn Velith birthplace</search>\n",
    "<think>\nnaïve São 日本 words\n</think>\n\n<search>born in 1984</search>\n\n",
    "<answer> Tolmar; May 1208</answer><search> the sea</search> and so on, research answers.",
    "It was the city of the river, born in the city.</search>\n<answer>x</answer>\n\n",
] * 4


def _byte_level(digits: str, normalizer=None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if normalizer is not None:
        made.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(_LETTERS + digits + _REST), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([
        split,
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def _starting_with(made: Tokenizer, bos: str) -> None:
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
    )


def _save(made: Tokenizer, folder: Path, config: dict, ends: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = [made.token_to_id(end) for end in ends]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids if len(ids) > 1 else ids[0]}))
    return folder


def published_template(name: str) -> str:
    """The chat template of a published model (text/chat_templates/README.md)."""
    return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def qwen(folder: Path, thinking: bool = True, template: str = "") -> Path:
    """As Qwen3 (or 2.5 without `thinking`): no beginning-of-sequence token, '<think>' one token that is no control."""
    made = _byte_level(r"\p{N}", normalizers.NFC())
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    if thinking:
        made.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": template or published_template("qwen3" if thinking else "qwen2.5"),
    }
    return _save(made, folder, config, ["<|im_end|>", "<|endoftext|>"])


def llama(folder: Path, template: str = "") -> Path:
    """As Llama 3: digits by three, a beginning-of-sequence token, no padding token."""
    made = _byte_level(r"\p{N}{1,3}")
    control = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    _starting_with(made, "<|begin_of_text|>")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": {"__type": "AddedToken", "content": "<|eot_id|>", "special": True},
        "chat_template": template or published_template("llama3.1"),
    }
    return _save(made, folder, config, ["<|end_of_text|>", "<|eot_id|>"])


def gemma(folder: Path, template: str = "") -> Path:
    """As Gemma 3: SentencePiece's '▁' and bytes in a BPE, the unknown spelled in bytes."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces = [*control, *[f"<0x{byte:02X}>" for byte in range(256)]]
    made.train_from_iterator(
        [text.replace("日本", "") for text in TEXTS],
        trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False),
    )
    # Bytes are pieces of the model, not tokens to look for in a text.
    settings = json.loads(made.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] in control]
    made = Tokenizer.from_str(json.dumps(settings))
    _starting_with(made, "<bos>")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": template or published_template("gemma3"),
    }
    return _save(made, folder, config, ["<eos>", "<end_of_turn>"])


def reasoner(folder: Path) -> Path:
    """As a distilled DeepSeek-R1: its chat template opens the thought of the reply, '<think>\\n'."""
    qwen(folder, template=published_template("deepseek-r1-distill"))
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_tokens([AddedToken(token, normalized=False) for token in ("<｜User｜>", "<｜Assistant｜>")])
    made.add_special_tokens([AddedToken("<｜end▁of▁sentence｜>", normalized=False, special=True)])
    made.save(str(folder / "tokenizer.json"))
    return folder


MAKERS = {"qwen": qwen, "llama": llama, "gemma": gemma}
