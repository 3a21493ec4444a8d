"""Tokenizers of published BERT-family encoders: `tokenizer.json`, or `vocab.txt` of an uncased or cased WordPiece.

Enters: texts. Leaves: token ids with [CLS] and [SEP], cut to a length. Left out: our own SentencePiece models.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.text import tokenizer_errors

FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


class WordPiece:
    """A tokenizer loaded from a checkpoint folder; thread-safe."""

    def __init__(self, directory: Path | str, max_length: int):
        """Read a folder; `encode` cuts each text to `max_length` ids.

        Raises FileNotFoundError that names what was looked for, and ValueError that names a file that is damaged."""
        directory = Path(directory)
        whole, vocabulary, config = (directory / name for name in FILES)
        if whole.exists():
            with tokenizer_errors.naming(whole):
                self._tokenizer = tokenizers.Tokenizer.from_file(str(whole))
                self._tokenizer.encode("a")  # a bad file may panic only when it is used
        elif vocabulary.exists():
            settings = read_json_object(config, "copy the checkpoint again") if config.exists() else {}
            lowercase = settings.get("do_lower_case", True)
            if not isinstance(lowercase, bool):
                raise ValueError(f"{config}: do_lower_case is {lowercase!r:.100}, true or false belongs there")
            with tokenizer_errors.naming(vocabulary):
                self._tokenizer = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=lowercase)
        else:
            raise FileNotFoundError(f"{directory} has neither tokenizer.json nor vocab.txt")
        # The file may carry its own limits (MiniLM: padded and cut to 128).
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        # The ids run from 0 to vocab_size - 1.
        file = whole if whole.exists() else vocabulary
        tokens = tokenizer_errors.tokens_by_id(self._tokenizer.get_vocab(with_added_tokens=True), file)
        self.vocab_size = 1 + max(tokens, default=-1)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids for each text, special tokens included, at most `max_length` long."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
