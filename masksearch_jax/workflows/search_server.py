"""Serve the indices of a workdir over HTTP, to rollouts on other machines and to any client of Search-R1's JSON.

Endpoints: POST /retrieve, GET /health, /ready, /stats (docs/search.md). The server listens at once, and answers 503
until the indices are loaded. On SIGTERM or SIGINT it takes no new connections, answers the requests in flight, and
exits with status 0.
"""

import asyncio
import signal
import sys
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.endpoints import Service, ServiceSettings
from masksearch_jax.retrieval.service.http_server import Server, ServerLimits
from masksearch_jax.workflows.settings import validate_settings


def run(cfg: ConfigDict, workdir: Path) -> None:
    """Serve until a signal stops it. Raises ValueError or FileNotFoundError for settings or data that cannot work."""
    validate_settings(cfg, "serve_search")
    limits = wire.Limits(**cfg.limits.to_dict())
    settings = ServiceSettings(
        indices=tuple(cfg.indices),
        k=cfg.k,
        limits=limits,
        threads=cfg.threads,
        batch=cfg.batch,
        wait_ms=cfg.wait_ms,
        pending=cfg.pending,
    )
    server_limits = ServerLimits(cfg.connections, limits.body_bytes, cfg.read_s, cfg.idle_s)
    asyncio.run(_serve(cfg, workdir, settings, server_limits))


async def _serve(cfg: ConfigDict, workdir: Path, settings: ServiceSettings, server_limits: ServerLimits) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = Service(workdir, settings, lambda: dict(server.stats))
    server = Server(service.handle, server_limits)
    try:
        port = await server.start(cfg.host, cfg.port)
    except OSError as error:
        raise ValueError(f"cannot listen on host={cfg.host!r}, port={cfg.port}: {error}; take another") from error
    say(f"listening on http://{cfg.host}:{port}")
    loading, stopping = asyncio.create_task(service.load()), asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()  # raises the error if loading failed
        say(f"ready: {', '.join(settings.indices)}")
        await stopping
    left = await server.stop(cfg.drain_s)
    say("stopped" + (f", {left} connections cut after drain_s={cfg.drain_s:g}" if left else ""))


def say(text: str) -> None:
    print(f"serve_search: {text}", file=sys.stderr, flush=True)
