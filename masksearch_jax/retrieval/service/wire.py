"""The JSON of a search over HTTP, for both sides: Search-R1's `/retrieve` (search_r1/search/retrieval_server.py there).

    {"queries": ["..", ..], "topk": 3, "return_scores": true}
    {"result": [[{"document": {"id": "17", "contents": "\\"Title\\"\\ntext"}, "score": 0.8}, ..], ..]}

SkyRL's clients send one query, {"query": ".."}, and read a result of one list. A topk that is missing, null or 0 means
the server's default; a return_scores that is missing or null means false. Without scores each entry of the result is
the document itself. We add `article_id` to a document and `fingerprint` to the answer, which other clients do not read.
Left out: sockets, searching, exclusion.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import NoReturn

from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.retrieval.service.answer_documents import Document, read_document, whole_characters
from masksearch_jax.runtime.types import Json, JsonObject

PATH = "/retrieve"
_MOST_PASSAGES = 1 << 16  # of one answer, which is built in memory
_LEAST = {"k": 1, "queries": 1, "query_chars": 16, "body_bytes": 1024}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    k: passages of a query. queries: queries of a request. query_chars: characters of a query; a longer one is cut.
    body_bytes: bytes of a request's body.
    """

    k: int = 100
    queries: int = 4096
    query_chars: int = 4096
    body_bytes: int = 4 << 20

    def __post_init__(self):
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"limits.{name} is {getattr(self, name)}, must be at least {least}")


class RequestError(ValueError):
    """A request that cannot be answered; the message names the field and what is wrong. status: the HTTP status."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class ResponseError(ValueError):
    """An answer that is not valid: not JSON, of another shape, or to another number of queries."""


@dataclasses.dataclass(frozen=True)
class Request:
    texts: list[str]
    k: int
    scores: bool


def request(texts: Sequence[str], k: int) -> bytes:
    """Return the body of a request for k passages for each text."""
    return json.dumps({"queries": list(texts), "topk": k, "return_scores": True}).encode()


def read_request(body: bytes, limits: Limits, default_k: int) -> Request:
    """Return what a client asks for; raise RequestError that names field and limit.

    One bad query must not make the server refuse the others: a long one is cut, as our own client cuts it, and lone
    surrogates become U+FFFD.
    """
    try:
        asked = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, too long numbers, too deep nesting
        raise RequestError(f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise RequestError(f"the body is a {_kind(asked)}, must be an object with queries, topk, return_scores")
    texts = [cut_query(text, limits.query_chars) for text in _queries(asked, limits)]
    k = asked.get("topk")
    k = default_k if k is None or (type(k) is int and k == 0) else k
    if type(k) is not int or not 1 <= k <= limits.k:
        shown = k if type(k) is int and abs(k) < 1e9 else _kind(k)
        raise RequestError(f"topk is {shown}, must be a whole number from 1 to {limits.k}")
    if len(texts) * k > max(_MOST_PASSAGES, limits.k):
        raise RequestError(f"{len(texts)} queries of topk {k} want over {_MOST_PASSAGES} passages; ask for fewer", 413)
    scores = asked.get("return_scores")
    if not isinstance(scores, bool | None):
        raise RequestError(f"return_scores is {_kind(scores)}, must be true or false")
    return Request(texts, k, bool(scores))


def cut_query(text: str, most: int) -> str:
    """Return the query with U+FFFD for lone surrogates; one longer than `most` is stripped at its ends, then cut."""
    return whole_characters(text if len(text) <= most else text.strip()[:most])


def _queries(asked: JsonObject, limits: Limits) -> list[str]:
    name = "query" if asked.get("queries") is None and asked.get("query") is not None else "queries"
    queries = asked.get(name)
    if name == "query" and isinstance(queries, str):
        queries = [queries]
    if not isinstance(queries, list):
        raise RequestError(f"{name} is {_kind(queries)}, must be a list of strings")
    if len(queries) > limits.queries:
        raise RequestError(f"{name} has {len(queries)} entries, the limit is {limits.queries}", 413)
    for i, text in enumerate(queries):
        if not isinstance(text, str):
            raise RequestError(f"{name}[{i}] is {_kind(text)}, must be a string")
    return queries


def response(found: Sequence[Sequence[Hit]], scores: bool, fingerprint: str) -> JsonObject:
    """Return the answer, ready for JSON. fingerprint: of the index that was searched."""
    result = [[_entry(hit, scores) for hit in hits] for hits in found]
    return {"result": result, "fingerprint": fingerprint}


def read_response(body: bytes, count: int, ours: bool, most: int | None = None) -> tuple[list[list[Document]], str]:
    """Return (documents of each of `count` queries, fingerprint or '').

    ours: read ids as numbers of our passages. most: documents of a query; more are left out. A document without text or
    with a score that is no number is left out (answer_documents.py). Raises ResponseError for an answer that is not
    valid, and if no document of a result that has some can be read.
    """
    try:
        answer = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ResponseError(f"no answer of {PATH}: {error}; it begins {body[:80]!r}") from None
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, list):
        raise ResponseError(f"no answer of {PATH}: it has no list named result; it begins {body[:80]!r}")
    if len(result) != count:
        raise ResponseError(f"{len(result)} results for {count} queries")
    fingerprint = answer.get("fingerprint")
    found = [_documents(entries, ours, most) for entries in result]
    return found, fingerprint if isinstance(fingerprint, str) else ""


def _documents(entries: Json, ours: bool, most: int | None) -> list[Document]:
    if not isinstance(entries, list):
        raise ResponseError(f"no answer of {PATH}: a result is {_kind(entries)}, must be a list of documents")
    found = [one for entry in entries[:most] if (one := read_document(entry, ours)) is not None]
    if entries[:most] and not found:
        shown = str(type(entries[0]).__name__ if not isinstance(entries[0], dict) else sorted(entries[0]))[:200]
        raise ResponseError(f"no answer of {PATH}: no document of a result can be read, the first one is {shown}")
    return found


def _entry(hit: Hit, scores: bool) -> JsonObject:
    document = {
        "id": str(hit.passage_id),
        "article_id": hit.article_id,
        "contents": f'"{hit.title}"\n{hit.text}',
    }
    return {"document": document, "score": hit.score} if scores else document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _kind(value: Json) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "missing or null"}
    return names.get(type(value), "number")
