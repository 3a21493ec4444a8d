"""Several tools in one episode, as one `interface.Searcher`: each query goes to the tool that it names.

Enters: {name: searcher}, the search first. Leaves: hits in the order of the queries. The tools of a batch work at the
same time.
"""

import concurrent.futures
import hashlib
import json
from collections.abc import Mapping, Sequence

from masksearch_jax.retrieval.interface import Hit, Query, Searcher

_THREADS = 16


class ToolBox:
    """The tools of an episode. Thread-safe if they are."""

    def __init__(self, tools: Mapping[str, Searcher]):
        self.tools = dict(tools)
        identity = {name: tool.fingerprint for name, tool in self.tools.items()}
        self.fingerprint = hashlib.sha256(json.dumps(["tools", identity]).encode()).hexdigest()
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="tools")

    @property
    def stats(self) -> dict[str, float]:
        """Return the counts of the search by their names, and those of every other tool as `<tool>/<name>`."""
        found: dict[str, float] = {}
        for tool, searcher in self.tools.items():
            prefix = "" if tool == "search" else f"{tool}/"
            found |= {prefix + name: value for name, value in searcher.stats.items()}
        return found

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return at most k hits for each query. Raises what a tool raises; KeyError for a tool that is not there."""
        places: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            places.setdefault(query.tool, []).append(place)
        calls = {
            tool: self._pool.submit(self.tools[tool].search, [queries[place] for place in at], k)
            for tool, at in places.items()
        }
        found: list[list[Hit]] = [[] for _ in queries]
        for tool, call in calls.items():
            for place, hits in zip(places[tool], call.result(), strict=True):
                found[place] = hits
        return found
