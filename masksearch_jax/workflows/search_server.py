"""Serve the indices of a workdir over HTTP, to rollouts on other machines and to any client of Search-R1's JSON.

Endpoints: POST /retrieve, GET /health, /ready, /stats (docs/guides/search.md). The server listens at once, and answers
503 until the indices are loaded. On SIGTERM or SIGINT it takes no new connections, answers the requests in flight, and
exits with status 0.
"""

import asyncio
import gc
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from masksearch_jax.retrieval.service import wire
from masksearch_jax.runtime import progress
from masksearch_jax.workflows.settings import validate_settings

if TYPE_CHECKING:  # needs the extra `service`
    from masksearch_jax.retrieval.service import endpoints, http_server


def run(cfg: ConfigDict, workdir: Path) -> None:
    """Serve until a signal stops it. Raises ValueError or FileNotFoundError for settings or data that cannot work."""
    validate_settings(cfg, "serve_search")
    try:
        from masksearch_jax.retrieval.service import endpoints, http_server
    except ImportError as error:
        raise ValueError(
            f"serve_search needs {error.name}: pip install -c launch/constraints.txt -e '.[service]'"
        ) from None
    limits = wire.Limits(**cfg.limits.to_dict())
    settings = endpoints.ServiceSettings(
        indices=tuple(cfg.indices),
        k=cfg.k,
        limits=limits,
        threads=cfg.threads,
        batch=cfg.batch,
        wait_ms=cfg.wait_ms,
        pending=cfg.pending,
    )
    service = endpoints.Service(workdir, settings, lambda: dict(server.stats))
    server_limits = http_server.ServerLimits(
        connections=cfg.connections,
        body_bytes=limits.body_bytes,
        read_s=cfg.read_s,
        idle_s=cfg.idle_s,
        idle_per_address=cfg.idle_per_address,
        slow_per_address=cfg.slow_per_address,
    )
    server = http_server.Server(service, server_limits)
    asyncio.run(_serve(cfg, service, server))


async def _serve(cfg: ConfigDict, service: "endpoints.Service", server: "http_server.Server") -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        port = await server.start(cfg.host, cfg.port)
    except OSError as error:
        raise ValueError(f"cannot listen on host={cfg.host!r}, port={cfg.port}: {error}; take another") from error
    progress.print_message("serve_search", f"listening on http://{cfg.host}:{port}")
    loading, stopping = asyncio.create_task(service.load()), asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()  # raises the error if loading failed
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector has not to walk it while requests wait
        progress.print_message("serve_search", f"ready: {', '.join(cfg.indices)}")
        await stopping
    left = await server.stop(cfg.drain_s)
    cut = f", {left} connections cut after drain_s={cfg.drain_s:g}" if left else ""
    progress.print_message("serve_search", f"stopped{cut}")
