"""The text of a reply while its tokens arrive: whole characters, and nothing from a stop string on.

Enters: tokens, one at a time. Leaves: pieces of text that add up to the reply. A character may be spread over several
tokens, and a stop string may begin in one token and end in another, so a piece may lag behind its tokens.
"""

import codecs
from collections.abc import Sequence

from masksearch_jax.text.tokenizer_protocol import Tokenizer


class Vocabulary:
    """What the tokens of a tokenizer are as text in a reply."""

    def __init__(self, tokenizer: Tokenizer):
        control: frozenset[str] = getattr(tokenizer, "control", frozenset())
        self._hidden = {tokenizer.id(name) for name in control} | set(tokenizer.end_ids)
        self._bytes = tokenizer.token_bytes

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes of a token, b'' for an id beyond the tokenizer's vocabulary."""
        return self._bytes[id] if id < len(self._bytes) else b""

    def shown(self, id: int) -> bytes:
        """Return the bytes that a token adds to a reply: none if it is a control token or ends a text."""
        return b"" if id in self._hidden else self.bytes_of(id)

    def whole_text(self, ids: Sequence[int]) -> str:
        """Return the text of a whole list of ids, control tokens by name."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")

    def text_of(self, id: int) -> str:
        """Return a token alone as text; bytes that are no character of their own become U+FFFD."""
        return self.bytes_of(id).decode("utf-8", "replace")


class ReplyText:
    """The text of one reply. stopped: True once a stop string was written; the text ends before it."""

    def __init__(self, vocabulary: Vocabulary, stop: tuple[str, ...] = ()):
        self.text, self.stopped = "", False
        self._vocabulary, self._stop, self._sent = vocabulary, stop, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id: int) -> str:
        """Add a token, and return the text that can be sent now."""
        return self._grow(self._decoder.decode(self._vocabulary.shown(id)), last=False)

    def finish(self) -> str:
        """Return what is left to send of the reply."""
        return self._grow(self._decoder.decode(b"", final=True), last=True)

    def _grow(self, more: str, last: bool) -> str:
        if not self.stopped:
            begin = max(0, len(self.text) - max(map(len, self._stop), default=0))
            self.text += more
            places = [place for one in self._stop if (place := self.text.find(one, begin)) >= 0]
            if places:
                self.stopped, self.text = True, self.text[: min(places)]
        end = len(self.text) if last or self.stopped else len(self.text) - self._held_back()
        piece, self._sent = self.text[self._sent : end], max(self._sent, end)
        return piece

    def _held_back(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=0)
        for size in range(min(longest - 1, len(self.text)), 0, -1):
            if any(one.startswith(self.text[-size:]) for one in self._stop):
                return size
        return 0
