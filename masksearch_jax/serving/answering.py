"""Send replies over HTTP: errors in OpenAI's form, streams of events, and no more work once the client is gone."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Coroutine
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from masksearch_jax.retrieval.service.http_server import json_response
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.serving import reply_forms
from masksearch_jax.serving.request_bodies import RequestError
from masksearch_jax.serving.session import BusyError

_T = TypeVar("_T")
_STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_LATER = {"Retry-After": "1"}
_GONE = 499  # nobody reads it


class EventStream(Response):
    """Server-sent events, one for each JSON object, then [DONE]. An error before the first event is a plain reply."""

    def __init__(self, events: AsyncGenerator[JsonObject, None]):
        super().__init__(headers=_STREAM)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):
            await until_gone(receive, self._sent(scope, receive, send))

    async def _sent(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        async with contextlib.aclosing(self._events) as events:
            try:
                async for event in events:
                    if not begun:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        begun = True
                    await send(_body(f"data: {json.dumps(event)}\n\n"))
                await send(_body("data: [DONE]\n\n", last=True))
            except Exception as error:
                if not begun:
                    await refusal(error)(scope, receive, send)
                    return
                await send(_body(f"data: {json.dumps(_message(error))}\n\n", last=True))


def _body(text: str, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": not last}


async def until_gone(receive: Receive, work: Coroutine[None, None, _T]) -> _T:
    """Return what `work` returns. If the client goes away first, cancel it and raise ClientDisconnect."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def refusal(error: Exception) -> Response:
    """Return the reply to a request that failed."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_GONE)
    if isinstance(error, RequestError):
        return json_response(error.status, _message(error))
    if isinstance(error, BusyError):
        return json_response(503, _message(error), _LATER)
    return json_response(500, _message(error))


def _message(error: Exception) -> JsonObject:
    """Return the reply's JSON. A fault of the server itself is also printed."""
    if isinstance(error, RequestError):
        return reply_forms.error(str(error), param=error.param, code=error.code)
    if isinstance(error, BusyError):
        return reply_forms.error(str(error), "server_error")
    print(f"serve: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return reply_forms.error(f"the server failed at this request: {type(error).__name__}", "server_error")
