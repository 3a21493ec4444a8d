"""A small Hugging Face Hub on this machine: what huggingface_hub asks for when it fetches the files of a model."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants


class FakeHub:
    """models: {ORG/NAME: {revision: (commit, folder)}}. gated: names that are closed. asked: the paths of requests."""

    def __init__(self):
        self.models: dict[str, dict[str, tuple[str, Path]]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    def add(self, name: str, revision: str, folder: Path) -> str:
        """Publish a folder as a revision, and return its commit."""
        content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
        commit = hashlib.sha1(revision.encode() + content).hexdigest()
        self.models.setdefault(name, {})[revision] = (commit, folder)
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        parts = path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        parts = parts[2:] if api else parts
        name, (kind, revision), rest = "/".join(parts[:2]), parts[2:4], "/".join(parts[4:])
        if name not in self.models:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        found = {commit: folder for commit, folder in self.models[name].values()}
        commit = self.models[name].get(revision, (revision,))[0]
        if commit not in found:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = {path.name: path.read_bytes() for path in sorted(found[commit].iterdir())}
        if api and kind == "revision":
            siblings = [{"rfilename": file} for file in files]
            return _json({"id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False})
        if api:  # tree
            return _json([
                {"type": "file", "path": file, "size": len(content), "oid": _id(content)}
                for file, content in files.items()
            ])
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_id(files[rest])}"'}, files[rest]


def _id(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _json(value) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that huggingface_hub asks, and an empty cache."""
    fake = FakeHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, headers, body = fake.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
