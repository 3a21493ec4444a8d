"""Tools of MCP servers that the package `mcp` itself runs, over stdio and over streamable HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("mcp", reason="pip install -c launch/constraints.txt -e '.[mcp]'")

from masksearch_jax.retrieval import guarded_tool
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.service.mcp_tool import McpTool, _arguments
from masksearch_jax.retrieval.service.search_client import NoHits
from masksearch_jax.retrieval.tool_answers import ToolError

SERVER = '''
import json, os, sys, time
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test")

@server.tool()
def lookup(query: str, limit: int = 3) -> list[str]:
    """Look something up."""
    if query == "slow":
        time.sleep(30)
    if query == "die":
        os._exit(1)
    if query == "wrong":
        raise ToolError("no such thing")
    return [json.dumps({"title": f"{query} {i}", "text": f"<search> text {i}"}) for i in range(limit)]

@server.tool()
def process() -> str:
    return str(os.getpid())

@server.tool()
def two(a: str, b: str) -> str:
    return a + b

if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    server.run("streamable-http", port=int(sys.argv[1]))
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("mcp") / "server.py"
    file.write_text(SERVER)
    return file


@pytest.fixture
def tool(script):
    made = McpTool("tools.more.lookup", "lookup", f"{sys.executable} {script} stdio", 120.0)
    yield made
    made.close()


def documents(found):
    return [(one.title, one.text) for one in found]


def test_a_server_over_stdio(tool):
    assert documents(tool("Karn", 2, 60.0)) == [("Karn 0", "<search> text 0"), ("Karn 1", "<search> text 1")]
    assert "no such thing" in tool("wrong", 1, 60.0)[0].text  # the policy reads what the tool has against it
    with pytest.raises(ToolError):
        tool("die", 1, 60.0)
    assert documents(tool("Vesh", 1, 60.0)) == [("Vesh 0", "<search> text 0")]  # it was started again


def test_a_late_call_is_given_up(tool):
    settings = guarded_tool.CallSettings(1.0, 2.0, 0, 3, 30.0, 2)
    guarded = guarded_tool.GuardedTool("lookup", "x", tool, settings, None, NoHits())
    assert guarded.search([Query("slow")], 1) == [[]] and guarded.stats["failures"] == 1


def test_what_is_wrong_is_named_at_the_start(script):
    command = f"{sys.executable} {script} stdio"
    with pytest.raises(ValueError, match="tools.search: the MCP server .* has no tool 'find'; it has lookup, process"):
        McpTool("tools.search", "find", command, 120.0)
    with pytest.raises(ValueError, match=r"the tool 'two' .*takes a, b \(required: a, b\)"):
        McpTool("tools.search", "two", command, 120.0)
    with pytest.raises(ValueError, match="does not answer"):
        McpTool("tools.search", "find", "/nowhere/at/all", 120.0)


def test_a_server_over_http(script):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, script, str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        made = McpTool("tools.more.lookup", "lookup", f"http://127.0.0.1:{port}/mcp", 60.0)
        assert documents(made("Karn", 1, 60.0)) == [("Karn 0", "<search> text 0")]
        made.close()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)


def test_the_arguments_of_a_tool():
    text, number = {"type": "string"}, {"type": "integer"}
    assert _arguments({"properties": {"q": text}, "required": ["q"]}) == ("q", "")
    assert _arguments({"properties": {"lang": text, "q": text, "limit": number}, "required": ["q"]}) == ("q", "limit")
    assert _arguments({"properties": {"q": text, "k": number}, "required": ["q", "k"]}) == ("q", "k")
    for schema in ({}, {"properties": {"n": number}, "required": ["n"]}):
        with pytest.raises(ValueError, match="a tool is called with one text"):
            _arguments(schema)
