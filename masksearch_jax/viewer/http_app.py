"""The viewer over HTTP: the page, and the questions that its scripts ask.

Only this machine may ask. The server listens on loopback, and refuses a request whose Host header names another host:
otherwise a web page of a stranger could point its own name at 127.0.0.1 and read the answers. Nothing is written by a
request. Texts of models and passages are hostile: answers are JSON, the scripts put them into the page as text, and the
page's policy lets no other script run.
"""

import functools
import json
import sqlite3
import sys
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from masksearch_jax.runtime.types import Json
from masksearch_jax.viewer import metric_curves, static_files
from masksearch_jax.viewer.library import Library, Source
from masksearch_jax.viewer.sources import Runs

HOST = "127.0.0.1"
_OWN_NAMES = {"localhost", "127.0.0.1", "[::1]"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip
_CONNECTIONS = 64


def application(runs: Runs) -> ASGIApp:
    """Return the ASGI application that shows `runs`."""
    library = Library(runs)

    def episode(given: dict[str, str]) -> Json:
        source, group = Source.parse(given.get("source", "")), _whole(given, "group")
        return library.group(source, group, _whole(given, "sample"))[0]

    def group(given: dict[str, str]) -> Json:
        return library.group(Source.parse(given.get("source", "")), _whole(given, "group"))

    def of_task(given: dict[str, str]) -> Json:
        return library.of_task(Source.parse(given.get("source", "")), given.get("task_id", ""))

    questions: dict[str, Callable[[dict[str, str]], Json]] = {
        "overview": lambda given: library.overview(), "episodes": library.episodes, "episode": episode, "group": group,
        "task": of_task, "compare": library.compare, "curves": lambda given: metric_curves.stages(runs.found),
    }  # fmt: skip
    routes = [Route("/", _page), Route("/{name}", _file)]
    routes += [Route(f"/api/{name}", functools.partial(_answer, ask)) for name, ask in questions.items()]
    return _OnlyThisMachine(GZipMiddleware(Starlette(routes=routes), minimum_size=2048, compresslevel=3))


def serve(runs: Runs, port: int) -> None:
    """Serve on 127.0.0.1 until Ctrl-C. port: 0 takes a free one. Raises OSError that names a port which is taken."""
    config = uvicorn.Config(
        application(runs), HOST, port, log_level="error", access_log=False, server_header=False, lifespan="off",
        ws="none", limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=1,
    )  # fmt: skip
    listener = config.bind_socket()
    print(f"report: http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[listener])


async def _page(request: Request) -> Response:
    return Response(static_files.served_page(), media_type="text/html")


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "favicon.ico":
        return Response(status_code=204)
    content = static_files.read(name)
    if content is None or name == static_files.PAGE:
        return _json(404, {"error": "no such page"})
    return Response(content, media_type=static_files.TYPES["." + name.rpartition(".")[2]])


async def _answer(ask: Callable[[dict[str, str]], Json], request: Request) -> Response:
    """Answer a question about the runs; what cannot be answered is a JSON error with a sentence."""
    try:
        return _json(200, await run_in_threadpool(ask, dict(request.query_params)))
    except KeyError as error:
        return _json(404, {"error": str(error.args[0])})
    except ValueError as error:
        return _json(400, {"error": str(error)})
    except (OSError, sqlite3.Error) as error:
        return _json(500, {"error": f"the episodes cannot be read: {error}"})


def _whole(given: dict[str, str], name: str) -> int:
    text = given.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"{name}={text[:40]!r} is no whole number")
    return int(text)


def _json(status: int, content: Json) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), status, media_type="application/json")


class _OnlyThisMachine:
    """Refuse requests that name another host, and add the headers of every answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        if host_name(host) not in _OWN_NAMES:
            refusal = _json(403, {"error": "this server answers to localhost and 127.0.0.1 only"})
            await refusal(scope, receive, self._with_headers(send))
            return
        await self._app(scope, receive, self._with_headers(send))

    @staticmethod
    def _with_headers(send: Send) -> Send:
        async def sent(message):
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        return sent


def host_name(header: str) -> str:
    """Return the host of a Host header without its port, in lower case. A tunnel may change the port."""
    name = header.strip().lower()
    before, colon, port = name.rpartition(":")
    return before if colon and port.isdigit() and "]" not in port else name
