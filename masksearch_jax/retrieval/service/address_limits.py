"""Which connections of one address are idle or slow, and which of them goes when there are too many.

Enters: what a connection does now, and its address. Leaves: the connection to end, if its address has too many that do
the same. So one client, or one machine, cannot take up all connections by holding them. A connection that asks and
takes its answer is neither idle nor slow, and is never counted. Left out: sockets, and how a connection ends
(http_server.py).
"""

import collections
import enum
import ipaddress
from collections.abc import Hashable
from typing import Generic, TypeVar

Connection = TypeVar("Connection", bound=Hashable)

_IPV6_NETWORK = 64  # bits: one customer has as many IPv6 addresses as they like, but one such network


class Holding(enum.Enum):
    """idle: nothing is asked. slow: a part of a request is missing, or an answer waits to be taken."""

    IDLE = "idle"
    SLOW = "slow"


class AddressLimits(Generic[Connection]):
    """What the connections of each address hold, in the order in which they began to."""

    def __init__(self, idle: int, slow: int):
        """idle, slow: how many connections of one address may be so at a time."""
        self._limits = {Holding.IDLE: idle, Holding.SLOW: slow}
        self._held: dict[tuple[str, Holding], collections.OrderedDict[Connection, None]] = {}
        self._of: dict[Connection, tuple[str, Holding]] = {}

    def note(self, connection: Connection, address: str, holding: Holding | None) -> Connection | None:
        """Note what a connection does now; return the one to end, which has done the same for the longest time.

        holding: None for a connection that is neither idle nor slow, or that is gone. The one to end stays noted until
        it is noted as None. Without one to end the result is None.
        """
        place = (address, holding) if holding else None
        if self._of.get(connection) != place:
            self._leave(connection)
            if holding:
                self._of[connection] = address, holding
                self._held.setdefault((address, holding), collections.OrderedDict())[connection] = None
        if holding is None:
            return None
        same = self._held[address, holding]
        return next(iter(same)) if len(same) > self._limits[holding] else None

    def __len__(self) -> int:
        """Return how many connections are noted."""
        return len(self._of)

    def _leave(self, connection: Connection) -> None:
        place = self._of.pop(connection, None)
        if place is not None:
            del self._held[place][connection]
            if not self._held[place]:
                del self._held[place]


def address_of(host: str | None) -> str:
    """Return what counts as one address: an IPv4 address, or the network of an IPv6 address; '' if there is none."""
    try:
        found = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _IPV6_NETWORK), strict=False))
