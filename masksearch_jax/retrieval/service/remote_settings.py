"""The settings of a search server, and what the server says of itself before the first search.

Enters: `config.search`. Leaves: whether the server is ours, which index it holds, what it allows. Left out: searching
(search_client.py).
"""

import dataclasses
import json
import time

from masksearch_jax.retrieval.service import wire
from masksearch_jax.retrieval.service.transport import Reply, Transport, TransportError
from masksearch_jax.runtime.types import ConfigSection, JsonObject

FALLBACKS = ("local", "empty", "none")
_POLL_SECONDS = 1.0
_PROBE_SECONDS = 10.0
# Limits of a server that names none: what Search-R1's own server answers without trouble.
_OTHER_LIMITS = wire.Limits(k=100, queries=64, query_chars=1 << 20, body_bytes=1 << 30)


@dataclasses.dataclass(frozen=True)
class RemoteSettings:
    """The settings of `config.search`; see configs/common.py."""

    url: str
    timeout_s: float
    deadline_s: float
    retries: int
    failures: int
    cooldown_s: float
    ready_s: float
    fallback: str

    def __post_init__(self):
        for name in ("timeout_s", "deadline_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"search.{name} is {getattr(self, name)}, must be above 0")
        for name, least in (("retries", 0), ("failures", 1), ("cooldown_s", 0), ("ready_s", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"search.{name} is {getattr(self, name)}, must be at least {least}")
        if self.fallback not in FALLBACKS:
            raise ValueError(f"search.fallback is {self.fallback!r}, known are {', '.join(FALLBACKS)}")
        Transport(self.url_of("train"))

    def url_of(self, index: str) -> str:
        """Return the server's address for one index, without the path `/retrieve` at its end."""
        return self.url.replace("{index}", index).rstrip("/").removesuffix(wire.PATH)


def settings_of(search: ConfigSection) -> RemoteSettings | None:
    """Return the settings of `config.search`, None without a URL; raise ValueError that names a bad setting."""
    if not search.url:
        return None
    return RemoteSettings(**{field.name: search[field.name] for field in dataclasses.fields(RemoteSettings)})


@dataclasses.dataclass(frozen=True)
class Remote:
    """A search server that answers.

    ours: whether its passage ids are numbers that mean something here. fingerprint, passages_sha256: of its index, ''
    if it is not a server of ours.
    """

    url: str
    ours: bool
    limits: wire.Limits
    fingerprint: str = ""
    passages_sha256: str = ""

    @classmethod
    def find(cls, url: str, index: str, transport: Transport, seconds: float) -> "Remote":
        """Ask the server until it is ready, for at most `seconds`.

        Raises ValueError if it holds another index or is no search server, TransportError if it is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return cls._ask(url, index, transport)
            except (TransportError, wire.ResponseError) as error:
                if time.monotonic() + _POLL_SECONDS > deadline:
                    raise TransportError(
                        f"search.url={url} was not ready within search.ready_s={seconds:g} s ({error}); start it, such "
                        "as with `python -m masksearch_jax.serve_search`, or set search.url='' to search here"
                    ) from error
            time.sleep(_POLL_SECONDS)

    @classmethod
    def _ask(cls, url: str, index: str, transport: Transport) -> "Remote":
        # The one request that every search server takes. Only a server of ours puts a fingerprint into its answer, and
        # it alone is asked for more.
        reply = transport.exchange("POST", wire.PATH, wire.request(["test"], 1), _PROBE_SECONDS)
        if reply.status >= 500:
            raise wire.ResponseError(f"{wire.PATH} says {reply.status}: {reply.body[:200].decode(errors='replace')}")
        said = _object(reply) if "fingerprint" in _object(reply) else {}
        if said:
            said = _object(transport.exchange("GET", "/ready", None, _PROBE_SECONDS))
        if "passages_sha256" in said:
            if said.get("index") != index:
                raise ValueError(
                    f"search.url={url} serves the index {said.get('index')!r}, this needs {index!r}; write {{index}} "
                    "in search.url (http://host:port/{index}) and serve both with --config.indices"
                )
            return cls(url, True, *_identity(url, said))
        try:
            if reply.status != 200:
                raise wire.ResponseError(f"status {reply.status}")
            wire.read_response(reply.body, 1, ours=False)
        except wire.ResponseError as error:
            raise ValueError(
                f"search.url={url} is no search server: POST {wire.PATH} gave {error}; give the address of one that "
                "speaks Search-R1's /retrieve"
            ) from error
        return cls(url, False, _OTHER_LIMITS)


def _object(reply: Reply) -> JsonObject:
    """Return the JSON object that a server answered; {} for any other answer."""
    try:
        said = json.loads(reply.body) if reply.status == 200 else {}
    except (ValueError, RecursionError):
        said = {}
    return said if isinstance(said, dict) else {}


def _identity(url: str, said: JsonObject) -> tuple[wire.Limits, str, str]:
    """Return (limits, fingerprint, passages_sha256) from what a server of ours says.

    Raises ValueError that names what is missing. Limits that this version does not know are left out.
    """
    limits, names = said.get("limits"), [field.name for field in dataclasses.fields(wire.Limits)]
    for name, right in (
        ("limits", isinstance(limits, dict) and all(type(limits.get(one)) is int for one in names)),
        ("fingerprint", isinstance(said.get("fingerprint"), str) and said["fingerprint"] != ""),
        ("passages_sha256", isinstance(said["passages_sha256"], str)),
    ):
        if not right:
            raise ValueError(f"search.url={url} is no server of ours: what /ready says has no right {name!r}")
    return wire.Limits(**{name: said["limits"][name] for name in names}), said["fingerprint"], said["passages_sha256"]
