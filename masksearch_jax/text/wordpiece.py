"""Tokenizers of published BERT-family encoders: `tokenizer.json`, or `vocab.txt` of an uncased or cased WordPiece.

Enters: texts. Leaves: token ids with [CLS] and [SEP], cut to a length. Left out: our own SentencePiece models.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


class WordPiece:
    """Loaded from a checkpoint folder; thread-safe."""

    def __init__(self, directory: Path | str, max_length: int):
        """Raises FileNotFoundError that names what was looked for."""
        directory = Path(directory)
        if (directory / "tokenizer.json").exists():
            self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        elif (directory / "vocab.txt").exists():
            config = directory / "tokenizer_config.json"
            lowercase = json.loads(config.read_text()).get("do_lower_case", True) if config.exists() else True
            self._tokenizer = tokenizers.BertWordPieceTokenizer(str(directory / "vocab.txt"), lowercase=lowercase)
        else:
            raise FileNotFoundError(f"{directory} has neither tokenizer.json nor vocab.txt")
        # The file may carry its own limits (MiniLM: padded and cut to 128).
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns token ids for each text, special tokens included, at most `max_length` long."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
