"""A tool behind an HTTP server: one POST to one address, and nothing else is ever asked of the server.

    {"queries": [".."], "topk": 3, "return_scores": true}      the request, that of Search-R1's /retrieve
    {"result": [ANSWER]}                                       status 200

ANSWER is what any tool of the user's own may answer (tool_answers.py): a text, a document, or a list of them. So a
server of /retrieve is a tool as it is. Left out: retries and the fallback (guarded_tool.py).
"""

import json
import time

from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.answer_documents import Document
from masksearch_jax.retrieval.service.transport import Transport, TransportError
from masksearch_jax.retrieval.tool_answers import ToolError, read_answer

_POLL_SECONDS = 1.0
_NO_TOOL = (404, 405, 501)  # nobody listens to a POST at this address


class HttpTool:
    """Calls of one address. Thread-safe."""

    def __init__(self, url: str):
        """Raise ValueError for a malformed URL, and if httpx is not installed."""
        self._url, self._transport = url, Transport(url)

    def __call__(self, query: str, k: int, seconds: float) -> list[Document]:
        """Return the documents of one call; raise ToolError without a valid answer within `seconds`."""
        status, body = self._post(query, k, seconds)
        if status != 200:
            raise ToolError(f"status {status}: {body[:300].decode(errors='replace')}")
        try:
            result = json.loads(body.decode("utf-8-sig"))["result"]
            (answer,) = result
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ToolError(f'it answered {body[:200]!r}; {{"result": [ANSWER]}} is needed for one query') from None
        return read_answer(answer, k)

    def wait(self, setting: str, timeout: float, seconds: float) -> None:
        """Wait until the server answers a call of the query 'test', for at most `seconds`.

        Raises ValueError that names the setting if nothing takes a POST at this address, TransportError if there is no
        answer in time. What the tool thinks of the query makes no difference.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                status, body = self._post("test", 1, timeout)
            except ToolError as error:
                status, body = 503, str(error).encode()
            if status in _NO_TOOL:
                raise ValueError(
                    f"{setting}={self._url}: POST gives {status}; give the whole address of the tool, path included"
                )
            if status < 500:
                return
            if time.monotonic() + _POLL_SECONDS > deadline:
                raise TransportError(
                    f"{setting}={self._url} was not ready within search.ready_s={seconds:g} s (status {status}: "
                    f"{body[:200].decode(errors='replace')}); start it, then start the same line again"
                )
            time.sleep(_POLL_SECONDS)

    def _post(self, query: str, k: int, seconds: float) -> tuple[int, bytes]:
        try:
            reply = self._transport.exchange("POST", "", wire.request([query], k), seconds)
        except TransportError as error:
            raise ToolError(str(error)) from error
        return reply.status, reply.body
