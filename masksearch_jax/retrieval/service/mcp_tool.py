"""A tool of an MCP server, over stdio or streamable HTTP, through the package `mcp` (extra `mcp`).

Enters: the name of a tool, and a server: a URL, or a command that is started and spoken to over its stdin and stdout.
Leaves: documents, one for each text that the tool returns. The query becomes the tool's one required argument (or its
first text), and the number of documents the argument called k, topk, limit or alike, if the tool has one. What the tool
itself reports as an error is a text like any other: the policy reads it and can ask better.
The connection lives on an event loop in a thread of its own. A connection that broke is made anew at the next call; a
server that was started for it is stopped. Left out: retries and the fallback (guarded_tool.py), other features of MCP.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import typing
from collections.abc import Coroutine
from typing import TypeVar

from masksearch_jax.retrieval.service.answer_documents import Document
from masksearch_jax.retrieval.tool_answers import ToolError, read_answer
from masksearch_jax.runtime.types import Json, JsonObject

if typing.TYPE_CHECKING:
    import mcp

_NUMBERS = ("k", "topk", "top_k", "n", "limit", "count", "max_results", "num_results")
_STOP_SECONDS = 5.0
T = TypeVar("T")


class McpTool:
    """Calls of one tool of one server. Thread-safe."""

    def __init__(self, setting: str, tool: str, server: str, seconds: float):
        """Connect, and read which arguments the tool takes. setting: for messages.

        Raises ValueError that names the setting if `mcp` is not installed, if the server does not answer within
        `seconds`, if it has no such tool, or if the tool cannot be called with one text.
        """
        try:
            import mcp
        except ImportError:
            raise ValueError(
                f"{setting} needs the package mcp: pip install -c launch/constraints.txt -e '.[mcp]'"
            ) from None
        self._mcp, self._tool, self._server = mcp, tool, server
        self._client: mcp.Client | None = None
        self._stop: asyncio.Event | None = None
        self._answered = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True).start()
        self._connecting = asyncio.Lock()
        try:
            tools = self._wait(self._list(), seconds)
        except ToolError as error:
            self.close()
            raise ValueError(
                f"{setting}: the MCP server {server!r} does not answer ({error}); see that it runs by itself"
            ) from error
        if tool not in tools:
            self.close()
            raise ValueError(f"{setting}: the MCP server {server!r} has no tool {tool!r}; it has {', '.join(tools)}")
        try:
            self._argument, self._number = _arguments(tools[tool])
        except ValueError as error:
            self.close()
            raise ValueError(f"{setting}: the tool {tool!r} of {server!r} {error}") from None

    def __call__(self, query: str, k: int, seconds: float) -> list[Document]:
        """Return the documents of one call; raise ToolError without an answer within `seconds`."""
        arguments: JsonObject = {self._argument: query} | ({self._number: k} if self._number else {})
        return read_answer(self._wait(self._ask(arguments), seconds), k)

    def close(self) -> None:
        """End the connection, and the server if it was started for it."""
        with contextlib.suppress(ToolError):
            self._wait(self._drop(self._client), _STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait(self, work: Coroutine[None, None, T], seconds: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise ToolError(f"no answer within {seconds:.3g} s") from None
        except ToolError:
            raise
        except Exception as error:  # mcp, anyio, httpx and the system each have their own
            raise ToolError(_told(error)) from error

    async def _list(self) -> dict[str, JsonObject]:
        """Return {name: JSON schema of its arguments} of the server's tools."""
        client, cursor = await self._connected(), None
        found: dict[str, JsonObject] = {}
        while True:
            page = await client.list_tools(cursor=cursor)
            found |= {one.name: one.input_schema for one in page.tools}
            cursor = page.next_cursor
            if not cursor:
                return found

    async def _ask(self, arguments: JsonObject) -> list[Json]:
        client, before = await self._connected(), self._answered
        try:
            result = await client.call_tool(self._tool, arguments)
        except BaseException as error:
            # A call that is cancelled was late. If nothing else came by this connection either, it hangs.
            if not isinstance(error, asyncio.CancelledError) or self._answered == before:
                await self._drop(client)
            raise
        self._answered += 1
        return [_document(block.text) for block in result.content if isinstance(block, self._mcp.types.TextContent)]

    async def _connected(self) -> "mcp.Client":
        async with self._connecting:
            if self._client is None:
                ready: asyncio.Future[mcp.Client] = self._loop.create_future()
                self._stop = asyncio.Event()
                self._task = self._loop.create_task(self._hold(ready, self._stop))
                try:
                    self._client = await ready
                except asyncio.CancelledError:
                    self._stop.set()
                    self._task.cancel()
                    raise
            return self._client

    async def _hold(self, ready: "asyncio.Future[mcp.Client]", stop: asyncio.Event) -> None:
        """Keep a connection open in one task, as its libraries want it, until `stop`."""
        try:
            async with self._mcp.Client(_target(self._mcp, self._server)) as client:
                ready.set_result(client)
                await stop.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    async def _drop(self, client: "mcp.Client | None") -> None:
        if client is not None and self._client is client and self._stop is not None:
            self._client = None
            self._stop.set()
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)


def _target(mcp: Json, server: str) -> Json:
    """Return what `mcp.Client` connects to: a URL, or a command whose messages go to the process's own stderr."""
    if server.startswith(("http://", "https://")):
        return server
    command, *given = shlex.split(server)
    parameters = mcp.StdioServerParameters(command=command, args=given, env=dict(os.environ))
    # Not sys.stderr: a notebook's is no file of the system.
    return mcp.stdio_client(parameters, errlog=sys.__stderr__ or subprocess.DEVNULL)


def _arguments(schema: JsonObject) -> tuple[str, str]:
    """Return (the argument that takes the query, the one that takes the number of documents or '').

    Raises ValueError that says which arguments the tool has if it cannot be called with one text.
    """
    properties: JsonObject = schema.get("properties") or {}
    required = list(schema.get("required") or [])
    number = next((name for name in _NUMBERS if properties.get(name, {}).get("type") in ("integer", "number")), "")
    texts = [name for name, one in properties.items() if one.get("type") == "string"]
    needed = [name for name in required if name != number]
    if len(needed) > 1 or (needed and needed[0] not in texts) or not texts:
        raise ValueError(
            f"takes {', '.join(properties) or 'nothing'} (required: {', '.join(required) or 'none'}); a tool is called "
            "with one text"
        )
    return (needed or texts)[0], number


def _document(text: str) -> Json:
    """Return the document that a text spells as JSON ({"title": .., "text": ..}), else the text itself."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    has_text = isinstance(found, dict) and any(isinstance(found.get(name), str) for name in ("text", "contents"))
    return found if has_text else text


def _told(error: BaseException) -> str:
    """Return the first error of nested groups, as task groups raise them, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
