"""The types that cannot be spelled out, one name each, with the reason why it is open.

Every package may import them: nothing here depends on a library or on another module of ours.
"""

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

# A value of a JSON document. Files may hold anything; the code that reads one checks what it uses.
Json: TypeAlias = Any
# An object of a JSON document, or what is going to be written as one.
JsonObject: TypeAlias = dict[str, Json]
# The value of one setting or field: workflows/setting_ranges.py, or the dataclass that takes it, says what it may be.
Setting: TypeAlias = Any
# Nested containers of arrays, or of one thing for each array (shapes, shardings, gradients). As in JAX itself, no type
# says which containers.
Pytree: TypeAlias = Any
# A field of a container of arrays: an array of numpy on the host or of JAX in a program; a shape or a sharding where
# the container describes those.
Leaf: TypeAlias = Any
# The weights of a network: nested dicts by name, with arrays at the leaves.
Params: TypeAlias = dict[str, Pytree]


class ConfigSection(Protocol):
    """A config or a section of one (ml_collections.ConfigDict), for packages that do not import ml_collections."""

    # workflows/setting_ranges.py has checked each setting; its type depends on its name.
    def __getattr__(self, name: str) -> Setting: ...
    def __getitem__(self, name: str) -> Setting: ...
    def __contains__(self, name: str) -> bool: ...
    def keys(self) -> Iterable[str]: ...
