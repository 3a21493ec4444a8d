"""The tools of an episode, by the section `tools` of a config: what answers searches, visits and calls of own tools.

Enters: the config, W/data, the search of `config.search`. Leaves: one searcher for all tools; without a setting of
`tools` that search itself. The value of a setting says where a tool is: FILE.py:NAME (a function or class), http://..
(one POST to this address, retrieval/service/http_tool.py), mcp:TOOL:SERVER (a URL, or a command; service/mcp_tool.py),
and for `visit` also 'article' (retrieval/article_tool.py). Time limits, retries and fallback are those of
`config.search`. A tool other than the search has no local stand-in; if it fails, it finds nothing.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.retrieval import article_tool, guarded_tool, toolbox
from masksearch_jax.retrieval.exclusion import ExcludeById, ExcludeByText
from masksearch_jax.retrieval.index import index_store
from masksearch_jax.retrieval.interface import Searcher
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import search_client
from masksearch_jax.retrieval.service.http_tool import HttpTool
from masksearch_jax.retrieval.service.mcp_tool import McpTool
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.text.tool_names import VISIT, further_tools, tool_names
from masksearch_jax.workflows import own_code

ARTICLE = "article"
_NEAR_DUPLICATE = 0.5  # of a workdir without an index: IndexSettings.near_duplicate
_FORMS = "FILE.py:NAME, http://HOST:PORT/PATH, mcp:TOOL:http://HOST:PORT/mcp or mcp:TOOL:COMMAND"


def validate_tools(cfg: ConfigDict) -> None:
    """Check the section `tools` without opening anything but the files of FILE.py:NAME.

    Raises ValueError that names the setting, its value and what is allowed.
    """
    tool_names(cfg.tools)
    for setting, where in _settings(cfg).items():
        _check_form(setting, where)
        if own_code.is_file(where):
            _function(setting, where)
    if cfg.tools.search and cfg.search.url:
        raise ValueError(
            f"tools.search={cfg.tools.search} and search.url={cfg.search.url} both say what searches; leave one out"
        )
    if cfg.tools.visit == ARTICLE and cfg.tools.search:
        raise ValueError(
            f"tools.visit='article' reads the articles of W/data, and tools.search={cfg.tools.search} finds others; "
            f"give tools.visit a tool of your own: {_FORMS}"
        )


def searcher_of(
    cfg: ConfigDict, index: str, folder: Path, store: PassageStore, search: Callable[[], Searcher]
) -> Searcher:
    """Return the searcher over all tools of an episode that searches one index.

    folder: of that index. search: opens the search of `config.search`, for which `tools.search` stands in. Raises what
    `validate_tools` raises, and ValueError or ConnectionError that names the setting of a tool that cannot be opened.
    """
    settings = cfg.tools
    validate_tools(cfg)
    found = {
        "search": _open(cfg, "tools.search", settings.search, index, folder, store) if settings.search else search()
    }
    if settings.visit == ARTICLE:
        found[VISIT] = _article_tool(cfg, folder, store, found["search"])
    if settings.snippet_words:
        found["search"] = article_tool.SnippetSearch(found["search"], settings.snippet_words)
    for setting, where in _settings(cfg).items():
        name = setting.rpartition(".")[2]
        if name != "search":
            found[name] = _open(cfg, setting, where, index, folder, store)
    return toolbox.ToolBox(found) if len(found) > 1 else found["search"]


def _settings(cfg: ConfigDict) -> dict[str, str]:
    """Return {setting: where} of each tool that is opened by its form."""
    own = {name: cfg.tools[name] for name in ("search", VISIT) if cfg.tools[name] not in ("", ARTICLE)}
    if cfg.tools.search == ARTICLE:
        own["search"] = ARTICLE
    return {f"tools.{name}": where for name, where in own.items()} | {
        f"tools.more.{name}": where for name, where in further_tools(cfg.tools).items()
    }


def _check_form(setting: str, where: str) -> None:
    is_mcp = where.startswith("mcp:") and where.count(":") > 1 and all(where.split(":", 2)[1:])
    if not (own_code.is_file(where) or is_mcp or where.startswith(("http://", "https://"))):
        raise ValueError(f"{setting}={where!r} has to be {_FORMS}")


def _open(cfg: ConfigDict, setting: str, where: str, index: str, folder: Path, store: PassageStore) -> Searcher:
    name, search = setting.rpartition(".")[2], cfg.search
    call, identity = _call(cfg, setting, where.replace("{index}", index))
    limits = guarded_tool.CallSettings(
        search.timeout_s, search.deadline_s, search.retries, search.failures, search.cooldown_s,
        max(cfg.rollout.search_threads, 1),
    )  # fmt: skip
    near = _NEAR_DUPLICATE
    if (folder / index_store.INDEX_FILE).exists():
        near = index_store.read_index_file(folder, only=())["settings"]["near_duplicate"]
    excluded = ExcludeByText(store, search.exclusion, near)
    fallback: Searcher | None = None if search.fallback == "none" else search_client.NoHits()
    if name == "search" and search.fallback == "local":
        fallback = SearchTool.load(folder, store, search.exclusion)
    return guarded_tool.GuardedTool(name, identity, call, limits, excluded, fallback)


def _call(cfg: ConfigDict, setting: str, where: str) -> tuple[guarded_tool.Call, str]:
    """Return how a tool is called, and what identifies it."""
    if own_code.is_file(where):
        function, digest = _function(setting, where)
        return guarded_tool.PythonTool(function), digest
    if where.startswith("mcp:"):
        _, tool, server = where.split(":", 2)
        return McpTool(setting, tool, server, cfg.search.ready_s), where
    http = HttpTool(where)
    http.wait(setting, cfg.search.timeout_s, cfg.search.ready_s)
    return http, where


@functools.cache
def _function(setting: str, where: str) -> tuple[Callable, str]:
    """Return the function of FILE.py:NAME, or one instance of a class that can be called, and the file's hash."""
    own = own_code.load(setting, where)
    takes = "it has to be a function of (query, k), or a class whose instances are"
    found = own.found
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"{setting}={where}: making one raised {type(error).__name__}: {error}") from error
    own_code.check_takes(f"{setting}={where}", found, 2, takes)
    return found, own.digest


def _article_tool(cfg: ConfigDict, folder: Path, store: PassageStore, search: Searcher) -> article_tool.ArticleTool:
    if isinstance(search, search_client.RemoteSearcher) and not search.is_ours:
        raise ValueError(
            f"tools.visit='article' reads the articles of W/data, and search.url={cfg.search.url} finds passages of "
            f"another corpus; give tools.visit a tool of your own: {_FORMS}"
        )
    contents = index_store.read_index_file(folder, only=(index_store.ROWS, index_store.NEAR_DUPLICATES))
    return article_tool.ArticleTool(store, ExcludeById.load(folder, cfg.search.exclusion), contents["fingerprint"])
