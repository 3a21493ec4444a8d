"""The SentencePiece tokenizer: `prepare` trains it, everything else reads it. No TensorFlow.

Enters: text, or the ids of a whole text. Leaves: ids, or text. The same `.model` file serves SeqIO's
`SentencePieceVocabulary`, which gives the same ids (tests/prep/test_ramp.py). `load` opens the tokenizer of a data
directory, which may instead be that of a published checkpoint (text/published_tokenizer.py).

Texts join at our tags without changing ids, because no dummy space is put in front: encode(a) + encode(b) ==
encode(a + b) whenever b begins with a tag or with a space (a word never merges across a space, a tag is never split).
"""

import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from masksearch_jax.text import tags, tokenizer_protocol
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

# In a data directory: the model that prepare trained, or the folder of files that it copied.
TRAINED, PUBLISHED = "tokenizer.model", "tokenizer"

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
# Figures as tokens of their own, two digits at a time, with and without the space before them: ' 26 July 1780' is
# '▁26', '▁July', '▁17', '80'. A small model copies by looking for what followed the last token. Single digits and lone
# spaces occur everywhere in a passage and mislead it; pairs hardly ever do.
_SINGLE, _PAIRS = tuple("0123456789"), tuple(f"{number:02d}" for number in range(100))
DIGIT_PAIRS = (*_PAIRS, *(f"▁{figure}" for figure in (*_PAIRS, *_SINGLE)))
# The two forms of each figure, without and with a space, for exchanging figures (prep/tasks/exchangeable_tokens.py).
FIGURES = {"digits": [(f, f"▁{f}") for f in _SINGLE], "pairs": [(f, f"▁{f}") for f in _PAIRS]}


def fixed_tokens(digit_pairs: bool) -> int:
    """Return how many tokens no text decides: controls, tags, the bytes of byte fallback, digit pairs if asked for."""
    return 3 + len(tags.ALL) + 256 + len(DIGIT_PAIRS) * digit_pairs


class Tokenizer:
    """Text to ids and back (text.tokenizer_protocol.Tokenizer). Thread-safe; pickled by its path."""

    prefix_ids: list[int] = []  # a prompt starts with its text

    def __init__(self, path: Path | str):
        """Read a model file. Raises FileNotFoundError if there is none, and ValueError if its layout is not ours."""
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no tokenizer at {path}; make it with `python -m masksearch_jax.prepare`")
        model = self.path.read_bytes()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a SentencePiece model: {error}") from error
        self.vocab_size = self._processor.vocab_size()
        self.pad_id, self.eos_id = self._processor.pad_id(), self._processor.eos_id()
        if (self.pad_id, self.eos_id, self._processor.unk_id()) != (PAD_ID, EOS_ID, UNK_ID):
            raise ValueError(
                f"{path} has pad, eos, unk = {self.pad_id}, {self.eos_id}, {self._processor.unk_id()}; "
                f"our models have {PAD_ID}, {EOS_ID}, {UNK_ID}: train one with `python -m masksearch_jax.prepare`"
            )

        self.end_ids: tuple[int, ...] = (self.eos_id,)

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; none for pad and eos."""
        return [self._bytes_of(id) for id in range(self.vocab_size)]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text, out_type=int)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._processor.encode(list(texts), out_type=int)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a whole id list.

        A character may be spread over several byte tokens, so the texts of parts do not add up. Pad and eos vanish."""
        text: str = self._processor.decode([int(i) for i in ids])
        return text

    def id(self, token: str) -> int:
        """Return the id of a token such as '</search>'; raises KeyError if the vocabulary lacks it."""
        found = self._processor.piece_to_id(token)
        if found == UNK_ID and token != self.token(UNK_ID):
            raise KeyError(f"the tokenizer {self.path} has no token {token!r}")
        return found

    def token(self, id: int) -> str:
        """Return the token with this id; '▁' marks the start of a word, as in SentencePiece."""
        return self._processor.id_to_piece(int(id))

    def _bytes_of(self, id: int) -> bytes:
        if self._processor.is_byte(id):
            return bytes([int(self.token(id)[3:5], 16)])  # <0xE2>
        if self._processor.is_control(id):
            return b""
        return self._processor.decode([id]).encode() if id == UNK_ID else self.token(id).replace("▁", " ").encode()

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        Tokenizer.__init__(self, state["path"])


def load(data_dir: Path | str) -> tokenizer_protocol.Tokenizer:
    """Return the tokenizer of a data directory: `tokenizer.model`, or the files of a checkpoint in `tokenizer/`.

    Raises FileNotFoundError that says how to make one.
    """
    published = Path(data_dir) / PUBLISHED
    return PublishedTokenizer(published) if published.is_dir() else Tokenizer(Path(data_dir) / TRAINED)


def train(
    texts: Iterable[str],
    path: Path | str,
    vocab_size: int,
    seed: int = 0,
    max_texts: int = 0,
    character_coverage: float = 1.0,
    digit_pairs: bool = False,
    threads: int = 2,
) -> Tokenizer:
    """Train a byte-fallback BPE model on texts, write it to `path` and return it.

    The model sees each text as it stands in a prompt, after one space. `vocab_size` is an upper limit: a small corpus
    has fewer tokens to merge and gives a smaller vocabulary. `max_texts` > 0 trains on that many texts, drawn with
    `seed`; 0 trains on all. Characters beyond `character_coverage` of the text are spelled in bytes: lower it for a
    corpus whose distinct characters would fill the vocabulary. `digit_pairs`: cut figures into pairs from the left
    ('1823' is '18', '23'), else digit by digit. Raises ValueError if `vocab_size` has no room for bytes, tags, pairs
    and characters.
    """
    if vocab_size <= (fixed := fixed_tokens(digit_pairs)):
        raise ValueError(f"vocab_size={vocab_size} leaves no tokens: {fixed} are bytes, tags, digit pairs and controls")
    sentencepiece.set_random_generator_seed(seed)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" " + text for text in texts),
            model_writer=model,
            model_type="bpe",  # unigram degenerates to letters on a small corpus
            vocab_size=vocab_size,
            byte_fallback=True,  # nothing is unknown
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            user_defined_symbols=[*tags.ALL, *(DIGIT_PAIRS if digit_pairs else ())],
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            input_sentence_size=max_texts,
            shuffle_input_sentence=max_texts > 0,
            max_sentence_length=1 << 16,
            hard_vocab_limit=False,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"no tokenizer of vocab_size={vocab_size} from these texts: {error}") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(model.getvalue())
    partial.rename(path)
    return Tokenizer(path)
