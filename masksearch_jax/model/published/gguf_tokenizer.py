"""Convert the tokenizer inside a GGUF file to tokenizer.json and tokenizer_config.json.

Enters: the metadata of the file. Leaves: the contents of the two files, for a Hugging Face folder. Two kinds are read:
byte-level BPE ('gpt2': Llama 3, Qwen, SmolLM2) with the word splitter that `tokenizer.ggml.pre` names, and
SentencePiece's BPE ('llama') in Gemma's form, which puts no space before a text. Other splitters are refused by name,
because a wrong one gives different ids without any error. (transformers 5.24 reads every file with GPT-2's splitter,
and so gives SmolLM2's "  1955" other ids than its published tokenizer.json does.)
"""

from collections.abc import Mapping

from masksearch_jax.runtime.types import Json, JsonObject

# Kinds of token in `tokenizer.ggml.token_type`.
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# tokenizer.ggml.pre -> (regular expression of words, or '' for GPT-2's own; whether to split digits one by one; whether
# to normalise to NFC; whether a word that is itself a token skips the merges).
_SPLITTERS = {
    "default": ("", False, False, False),
    "gpt-2": ("", False, False, False),
    "smollm": ("", True, False, False),
    "llama-bpe": (_LLAMA3, False, False, True),
    "llama3": (_LLAMA3, False, False, True),
    "qwen2": (_QWEN2, False, True, False),
}


def tokenizer_files(metadata: Mapping[str, Json], source: str) -> JsonObject:
    """Return the tokenizer's files as {name: JSON value}.

    source: the GGUF file's name, for messages. Raises ValueError for a tokenizer that is incomplete or of another kind.
    """
    tokens = _list(metadata, "tokens", source)
    kinds = _list(metadata, "token_type", source)
    if len(kinds) != len(tokens):
        raise ValueError(f"{source}: {len(kinds)} values in tokenizer.ggml.token_type for {len(tokens)} tokens")
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        model, parts = _byte_level(metadata, tokens, source)
    elif kind == "llama":
        model, parts = _sentencepiece(metadata, tokens, kinds, source)
    else:
        raise ValueError(f"{source}: tokenizer.ggml.model={kind!r}; gpt2 and llama are read")
    added = [
        {
            "id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind == _CONTROL,
        }
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        **parts, "post_processor": _post_processor(metadata, tokens, source), "model": model,
    }  # fmt: skip
    return {"tokenizer.json": content, "tokenizer_config.json": _config(metadata, tokens, source)}


def _byte_level(metadata: Mapping[str, Json], tokens: list[str], source: str) -> tuple[dict, dict]:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _SPLITTERS:
        raise ValueError(f"{source}: tokenizer.ggml.pre={pre!r} is none of {', '.join(_SPLITTERS)}")
    regex, digits, nfc, whole_words = _SPLITTERS[pre]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not regex}
    first: list[dict] = []
    if regex:
        first = [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}]
    elif digits:
        first = [{"type": "Digits", "individual_digits": True}]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole_words,
        "vocab": _vocabulary(tokens, source), "merges": _list(metadata, "merges", source),
    }  # fmt: skip
    return model, {
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, byte_level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def _sentencepiece(metadata: Mapping[str, Json], tokens: list[str], kinds: list[int], source: str) -> tuple[dict, dict]:
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        raise ValueError(
            f"{source}: its tokenizer puts a space before every text (Llama 2), so that tokens depend on where a text "
            "is cut; models of Llama 3, Qwen, SmolLM2 and Gemma are read"
        )
    scores = _list(metadata, "scores", source)
    vocabulary = _vocabulary(tokens, source)
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    ordinary = {token: i for token, i in vocabulary.items() if kinds[i] not in (_CONTROL, _USER_DEFINED, _BYTE)}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None if unknown is None else tokens[unknown],
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
        "ignore_merges": False, "vocab": vocabulary, "merges": _merges(ordinary, scores),
    }  # fmt: skip
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return model, {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        "decoder": {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    }  # fmt: skip


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[list[str]]:
    """Return the merges of SentencePiece's BPE, the pair whose joined token has the highest score first."""
    found = []
    for whole, i in vocabulary.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-scores[i], vocabulary[left], vocabulary[right], left, right))
    return [[left, right] for *_, left, right in sorted(found)]


def _post_processor(metadata: Mapping[str, Json], tokens: list[str], source: str) -> JsonObject | None:
    if metadata.get("tokenizer.ggml.add_eos_token"):
        raise ValueError(f"{source}: its tokenizer appends a token to a text, so nothing can follow it")
    if not metadata.get("tokenizer.ggml.add_bos_token"):
        return None
    token = _special(metadata, "bos", tokens, source)
    if token is None:
        raise ValueError(f"{source} asks for a first token of every text, and has no tokenizer.ggml.bos_token_id")
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    parts = [{"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB")]
    return {
        "type": "TemplateProcessing",
        "single": [first, parts[0]],
        "pair": [first, *parts],
        "special_tokens": {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]}},
    }


def _config(metadata: Mapping[str, Json], tokens: list[str], source: str) -> JsonObject:
    roles = (("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk"))
    named = {f"{role}_token": _special(metadata, key, tokens, source) for key, role in roles}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        **{role: token for role, token in named.items() if token is not None},
    }


def _special(metadata: Mapping[str, Json], key: str, tokens: list[str], source: str) -> str | None:
    name = f"tokenizer.ggml.{key}_token_id"
    value = metadata.get(name)
    if value is None:
        return None
    if not 0 <= int(value) < len(tokens):
        raise ValueError(f"{source}: {name}={value} is none of the {len(tokens)} tokens")
    return tokens[int(value)]


def _list(metadata: Mapping[str, Json], name: str, source: str) -> list[Json]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not found:
        raise ValueError(f"{source} has no tokenizer.ggml.{name}")
    return found


def _vocabulary(tokens: list[str], source: str) -> dict[str, int]:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError(f"{source}: its tokenizer holds two tokens of one name")
    return vocabulary
