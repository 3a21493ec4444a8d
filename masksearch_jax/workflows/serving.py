"""Serve a policy over HTTP (masksearch_jax.serve): open it, compile its programs, answer until a signal.

On SIGTERM or SIGINT the server takes no new connections, answers the requests in flight, and exits with status 0.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from masksearch_jax.runtime import mesh as mesh_lib
from masksearch_jax.workflows import served_policy
from masksearch_jax.workflows.settings import validate_settings

if TYPE_CHECKING:  # needs the extra `service`
    from masksearch_jax.retrieval.service import http_server

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run(cfg: ConfigDict, folder: Path, workdir: Path | None, agent: bool) -> None:
    """Serve the policy of `folder` until a signal stops it. workdir: the run whose data an agent searches, if another.

    Raises ValueError or FileNotFoundError for settings, a policy or data that cannot work.
    """
    validate_settings(cfg, "serve")
    try:
        from masksearch_jax.retrieval.service import http_server
        from masksearch_jax.serving import http_api
    except ImportError as error:
        raise ValueError(f"serve needs {error.name}: pip install -c launch/constraints.txt -e '.[service]'") from None
    opened = served_policy.open_policy(folder, mesh_lib.make_mesh(**cfg.mesh.to_dict()), workdir, cfg.dtype)
    settings = opened.agent(workdir, cfg.index, cfg.search_url) if agent else None
    if settings and 0 < cfg.total_tokens < settings.limits.total_tokens:
        raise ValueError(
            f"total_tokens={cfg.total_tokens}: an episode of this policy has {settings.limits.total_tokens}; give 0"
        )
    total = cfg.total_tokens or (settings.limits.total_tokens if settings else 0)
    engine = opened.engine(cfg.slots, cfg.steps, total, cfg.pending)
    if cfg.warm_up:
        began = time.perf_counter()
        compiled = engine.warm_up(extends=agent)
        _print(f"{compiled} programs compiled in {time.perf_counter() - began:.0f} s")
    name = cfg.name or folder.resolve().name
    served = http_api.Served(name, str(folder), opened.tokenizer, engine, opened.chat_prompt(), settings)
    limits = http_server.ServerLimits(
        connections=cfg.connections,
        body_bytes=cfg.body_bytes,
        read_s=cfg.read_s,
        idle_s=cfg.idle_s,
        idle_per_address=cfg.idle_per_address,
        slow_per_address=cfg.slow_per_address,
    )
    server = http_server.Server(http_api.application(served, cfg.host in _LOOPBACK), limits)
    try:
        asyncio.run(_serve(cfg, server, name))
    finally:
        engine.close()


async def _serve(cfg: ConfigDict, server: "http_server.Server", name: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        port = await server.start(cfg.host, cfg.port)
    except OSError as error:
        raise ValueError(f"cannot listen on host={cfg.host!r}, port={cfg.port}: {error}; take another") from error
    _print(f"ready: http://{cfg.host}:{port}/v1 serves the model {name!r}")
    await stop.wait()
    left = await server.stop(cfg.drain_s)
    _print("stopped" + (f", {left} connections cut after drain_s={cfg.drain_s:g}" if left else ""))


def _print(text: str) -> None:
    print(f"serve: {text}", file=sys.stderr, flush=True)
