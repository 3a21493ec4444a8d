"""Tokenizers of published language models: `tokenizer.json` of a Hugging Face folder, without transformers.

Enters: a folder with tokenizer.json and tokenizer_config.json (generation_config.json is read if it is there), as
Qwen2.5, Qwen3, Llama 3 and Gemma 3 checkpoints carry them. Leaves: ids, or text, exact to the byte
(text/tokenizer_protocol.py). Left out: tokenizers in which the text of a token depends on its position (Llama 2, T5),
which are refused; and what a chat template writes (text/chat_template.py).

Text is data: `<|im_end|>` in a passage becomes ordinary tokens, never the control token. Only `encode_control` and
`cut_control` make control tokens, and text/chat_template.py calls them on texts of the template. Control tokens are
the special tokens of the folder, and other added tokens that its chat template spells (`<｜User｜>` of DeepSeek). Our
tags are no control tokens. Where a fine-tuned checkpoint has added them as tokens, special or not, each tag is that one
token, as in our own tokenizers. text/tags.py keeps tags out of passages and results before these are encoded.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers

from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import added_tokens, chat_template, tokenizer_errors

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    chat_template.FILE,
)
# Tokens that end a turn in widely used chat templates. Base checkpoints have these tokens and no template.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
# The roles that a chat template may name, as transformers passes them.
_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LONG = 4096  # characters
_PROBES = ("a", " a", "a ", "  <search> X</search>\n\n", "Na\u00efve \u65e5\u672c \U0001f388 1984.")
# The decoder of Gemma's SentencePiece models: '▁' is a space, '<0xE2>' a byte, and nothing is stripped.
_BYTE_FALLBACK = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


def _naming_the_folder(read: Callable[["PublishedTokenizer", Path | str, str], None]) -> Callable[..., None]:
    """Wrap a method so that each of its failures names a file of the folder."""

    @functools.wraps(read)
    def named(self: "PublishedTokenizer", folder: Path | str, chat: str = chat_template.AUTO) -> None:
        with tokenizer_errors.naming(Path(folder) / "tokenizer.json"):
            read(self, folder, chat)

    return named


class PublishedTokenizer:
    """Text to ids and back (text.tokenizer_protocol.Tokenizer). Thread-safe; pickled by its path."""

    @_naming_the_folder
    def __init__(self, folder: Path | str, chat: str = chat_template.AUTO):
        """Read a folder. chat: the file of a chat template in place of the folder's own ('auto').

        Raises FileNotFoundError that names what is missing, and ValueError for a tokenizer that is not exact to the
        byte or has no end-of-sequence token."""
        self.path, self._chat = Path(folder), chat
        file = self.path / "tokenizer.json"
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist; name the folder of a Hugging Face checkpoint")
        content = file.read_bytes()
        named = _named_tokens(self.path)
        self.special_tokens = _contents(named)
        self.chat_template = chat_template.find_template(self.path, chat)
        said = after = ""
        if self.chat_template is not None:
            written, after = chat_template.render_reply(self.chat_template, self.special_tokens)
            said = self.chat_template.text + written
        try:
            settings = json.loads(content)
            special_tags = added_tokens.make_tags_plain(settings)
            spelled = added_tokens.make_control(settings, said)
            self._settings = json.dumps(settings)
            self._tokenizer = tokenizers.Tokenizer.from_str(self._settings)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{file} is no tokenizer.json: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # as ordinary text
        self._tokens = tokenizer_errors.tokens_by_id(self._tokenizer.get_vocab(with_added_tokens=True), file)
        self.vocab_size = max(self._tokens) + 1
        self.control = frozenset(
            token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special
        )
        self._control_ids = frozenset(map(self._tokenizer.token_to_id, self.control))
        self._decoder = _decoder(settings, file)
        for probe in _PROBES:
            if (got := self.decode(self.encode(probe))) != probe:
                raise ValueError(f"{file}: {probe!r} comes back as {got!r}; only tokenizers that keep texts are of use")
        self.prefix_ids = self._prefix(file)
        self.eos_id = self._named(named, "eos_token")
        self.pad_id = self._named(named, "pad_token") if named.get("pad_token") else self.eos_id
        listed = self._listed_ends()
        self.end_ids = tuple(sorted({*listed, *self._turn_ends(after)}))
        deciding = {"eos": self.eos_id, "pad": self.pad_id, "ends": listed, "prefix": self.prefix_ids}
        deciding |= {"tags": special_tags} if special_tags else {}
        deciding |= {"control": spelled} if spelled else {}
        self.fingerprint = hashlib.sha256(content + b"\0" + json.dumps(deciding).encode()).hexdigest()

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for: a control token stands for its name, an unused id for nothing."""
        return [self._decoder(self._tokens[id]) if id in self._tokens else b"" for id in range(self.vocab_size)]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text as data: it makes no control token, whatever it spells."""
        if len(text) > _LONG:  # the call for batches lets other threads run meanwhile
            return self.encode_batch([text])[0]
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_control(self, text: str) -> list[int]:
        """Return the ids of a text that we or a template wrote: names of control tokens become those tokens."""
        return self._of_templates.encode(text, add_special_tokens=False).ids

    def cut_control(self, text: str) -> list[str | int]:
        """Cut a template's text at its control tokens; return their ids and the texts between them.

        Whitespace that belongs to a control token (its lstrip, rstrip) is in none of the texts."""
        read = self._of_templates.encode(text, add_special_tokens=False)
        found: list[str | int] = []
        place = 0
        for id, (start, end) in zip(read.ids, read.offsets, strict=True):
            if id in self._control_ids:
                found += [text[place:start], id] if start > place else [id]
                place = end
        return [*found, text[place:]] if place < len(text) else found

    @functools.cached_property
    def _of_templates(self) -> tokenizers.Tokenizer:
        """The same tokenizer in the mode in which names of control tokens become those tokens.

        There are two tokenizers because switching one between the two modes is not thread-safe."""
        again = tokenizers.Tokenizer.from_str(self._settings)
        again.no_padding()
        again.no_truncation()
        return again

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a whole id list.

        A character may be spread over several tokens, so the texts of parts do not add up. Control tokens appear by
        name. Ids beyond the vocabulary, which a padded embedding has, add nothing."""
        return b"".join(self._decoder(self._tokens.get(int(i), "")) for i in ids).decode("utf-8", "replace")

    def id(self, token: str) -> int:
        """Return the id of a token as tokenizer.json spells it; raises KeyError if the vocabulary lacks it."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(f"the tokenizer {self.path} has no token {token!r}")
        return found

    def token(self, id: int) -> str:
        return self._tokens[int(id)]

    def _prefix(self, file: Path) -> list[int]:
        """Return the ids that the tokenizer itself puts in front of a text."""
        bare, whole = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        if whole[len(whole) - len(bare) :] != bare:
            raise ValueError(f"{file} appends tokens to a text ({whole} for {bare}), so nothing can follow it")
        return whole[: len(whole) - len(bare)]

    def _named(self, named: JsonObject, key: str) -> int:
        value = named.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        found = self._tokenizer.token_to_id(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{self.path / 'tokenizer_config.json'} has {key}={value!r}, which is no token")
        return found

    def _listed_ends(self) -> tuple[int, ...]:
        """Return the end tokens that the folder names, `eos_id` included, in ascending order."""
        file = self.path / "generation_config.json"
        listed = _read(file).get("eos_token_id")
        listed = listed if isinstance(listed, list) else [] if listed is None else [listed]
        if any(type(i) is not int for i in listed):
            raise ValueError(f"{file} has eos_token_id={listed!r:.100}, where token ids belong; download it again")
        if wrong := [i for i in listed if i not in self._tokens]:
            raise ValueError(f"{file} has eos_token_id={listed}, of which the vocabulary lacks {wrong}")
        return tuple(sorted({self.eos_id, *listed}))

    def _turn_ends(self, after: str) -> set[int]:
        """Return the tokens that end a turn: the one that the chat template writes after a reply, and TURN_ENDS.

        Base checkpoints have the latter and do not name them as ends, and some instruct checkpoints have no
        generation_config.json."""
        written = max((name for name in self.control if after.lstrip().startswith(name)), key=len, default="")
        found = map(self._tokenizer.token_to_id, (written, *TURN_ENDS))
        return {id for id in found if id is not None}

    def __getstate__(self) -> JsonObject:
        return {"path": self.path, "chat": self._chat}

    def __setstate__(self, state: JsonObject) -> None:
        PublishedTokenizer.__init__(self, state["path"], state["chat"])


def copy(folder: Path | str, into: Path | str, chat: str = chat_template.AUTO) -> PublishedTokenizer:
    """Copy the files of a tokenizer from a checkpoint folder to `into` and open it there.

    chat: as for PublishedTokenizer; a file becomes the chat template of `into`."""
    into = Path(into)
    into.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (Path(folder) / name).exists():
            shutil.copyfile(Path(folder) / name, into / name)
    if chat not in ("", chat_template.AUTO):
        shutil.copyfile(chat, into / chat_template.FILE)
    return PublishedTokenizer(into)


def _contents(named: JsonObject) -> dict[str, str]:
    """Return {role: name} of the tokens with a role that chat templates know."""
    found: dict[str, str] = {}
    for role in _ROLES:
        value = named.get(role)
        value = value.get("content") if isinstance(value, dict) else value
        found |= {role: value} if isinstance(value, str) else {}
    return found


def _named_tokens(folder: Path) -> JsonObject:
    """Return the tokens with a role, by role; tokenizer_config.json overrides special_tokens_map.json."""
    named: JsonObject = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        read = _read(folder / name)
        named |= {role: token for role, token in read.items() if role.endswith("_token") and token is not None}
    return named


def _read(path: Path) -> JsonObject:
    """Return the object in a JSON file, {} if there is no file."""
    return read_json_object(path, "download it again") if path.exists() else {}


def _decoder(settings: JsonObject, file: Path) -> Callable[[str], bytes]:
    """Return a function token -> bytes; raises ValueError if the bytes of a token depend on more than the token."""
    decoder = settings.get("decoder") or {}
    if decoder.get("type") == "ByteLevel":
        return _byte_level
    if decoder.get("type") == "Sequence" and decoder["decoders"] == _BYTE_FALLBACK:
        return _byte_fallback
    raise ValueError(
        f"{file} has the decoder {json.dumps(decoder)[:200]}; ByteLevel (Qwen, Llama 3) and Replace, ByteFallback, "
        "Fuse (Gemma) are known to be exact"
    )


def _byte_alphabet() -> dict[str, int]:
    """Return {character: byte} for the 256 characters with which byte-level BPE writes bytes (GPT-2's encoder.py).

    A printable byte is written as itself, the others as U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[char] for char in token])
    except KeyError:  # an added token with characters outside the alphabet
        return token.encode()


def _byte_fallback(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace("▁", " ").encode()
