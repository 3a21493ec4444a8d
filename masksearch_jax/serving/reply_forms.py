"""The JSON of replies, as OpenAI documents them: whole replies, chunks of a stream, log-probs, errors.

Enters: texts, tokens and counts. Leaves: JSON objects. An answer of the search loop has one more field, `masksearch`,
with its turns, its sources and why it ended.
"""

import dataclasses
import itertools
import time
import uuid
from collections.abc import Sequence

from masksearch_jax.retrieval import interface
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.serving.reply_text import Vocabulary
from masksearch_jax.serving.search_loop import AgentReply, AgentTurn
from masksearch_jax.serving.session import Token

EXTENSION = "masksearch"


@dataclasses.dataclass(frozen=True)
class Form:
    """The kind of a reply: its fields that are the same in all chunks."""

    chat: bool
    model: str
    id: str
    created: int

    @classmethod
    def new(cls, chat: bool, model: str) -> "Form":
        return cls(chat, model, f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time()))

    def whole(self, choices: list[JsonObject], counts: JsonObject, **extension: Json) -> JsonObject:
        """Return a whole reply."""
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": counts, **extension}

    def chunk(self, choices: list[JsonObject], counts: JsonObject | None = None, **extension: Json) -> JsonObject:
        """Return a chunk of a stream; counts: of the whole reply, in the last chunk of a stream that asked for them."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": counts, **extension}

    def choice(self, index: int, text: str, logprobs: Json, finish: str | None) -> JsonObject:
        """Return a choice of a whole reply."""
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}

    def piece(self, index: int, text: str | None, logprobs: Json, finish: str | None, first: bool) -> JsonObject:
        """Return a choice of a chunk. text: None for nothing more. first: whether it is the first of its choice."""
        said: JsonObject
        if self.chat:
            said = {"delta": ({"role": "assistant"} if first else {}) | ({} if text is None else {"content": text})}
        else:
            said = {"text": text or ""}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}

    def _head(self, kind: str) -> JsonObject:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(prompt: int, written: int) -> JsonObject:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def chat_logprobs(tokens: Sequence[Token], vocabulary: Vocabulary) -> JsonObject:
    """Return the log-probs of tokens in the form of chat completions."""

    def one(id: int, logprob: float | None) -> JsonObject:
        data = vocabulary.bytes_of(id)
        return {"token": vocabulary.text_of(id), "logprob": logprob, "bytes": list(data)}

    return {
        "content": [
            one(token.id, token.logprob) | {"top_logprobs": [one(*other) for other in token.alternatives]}
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[Token], vocabulary: Vocabulary, offset: int) -> JsonObject:
    """Return the log-probs of tokens in the form of completions.

    offset: characters of the choice's tokens before them. Among alternatives of equal text the likeliest is kept.
    """
    texts = [vocabulary.text_of(token.id) for token in tokens]
    offsets = list(itertools.accumulate(map(len, texts), initial=offset))[:-1]
    top: list[JsonObject | None] = []
    for token in tokens:
        best: JsonObject = {}
        for id, logprob in token.alternatives:
            best.setdefault(vocabulary.text_of(id), logprob)
        top.append(best if token.logprob is not None else None)
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def turn_json(one: AgentTurn) -> JsonObject:
    """Return a turn of the search loop."""
    turn = one.turn
    return {
        "action": turn.action, "text": turn.text, "query": turn.query, "passages": [source(hit) for hit in one.hits],
        "observation": turn.observation, "error": turn.error,
    }  # fmt: skip


def extension(reply: AgentReply) -> JsonObject:
    """Return the field `masksearch` of an answer."""
    return {
        "stop": reply.stop.value,
        "turns": [turn_json(one) for one in reply.turns],
        "sources": [source(hit) for hit in reply.sources],
    }


def source(hit: interface.Hit) -> JsonObject:
    return {"passage_id": hit.passage_id, "title": hit.title, "text": hit.text, "score": hit.score}


def error(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> JsonObject:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
