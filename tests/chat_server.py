"""An OpenAI-compatible server on loopback whose replies a function writes, in a process's own threads.

Run as a program it is a server of its own, to be killed: python tests/chat_server.py PORT MODULE:FUNCTION LOG
"""

import http.server
import importlib
import json
import sys
import threading
import time
from pathlib import Path


class ChatServer:
    """write(messages: list of {"role", "content"}) -> text, or the whole body of the reply. `asked` keeps requests,
    faults are statuses to answer with first (one a request), or 'silent', 'garbage'. refuse(request) -> (status, error
    object) for a request that the server does not take, None for others."""

    def __init__(self, write, port=0, log=None):
        self.asked, self.faults, self.write, self.log = [], [], write, log
        self.retry_after, self.refuse = "", lambda asked: None
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 64

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self.serve)

    def serve(self):
        self._server.serve_forever(0.05)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler):
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.asked.append(asked | {"path": handler.path, "key": handler.headers["Authorization"]})
            fault = self.faults.pop(0) if self.faults else 0
        if fault == "silent":
            time.sleep(1.0)
        if refused := self.refuse(asked):
            status, body = refused[0], {"error": refused[1]}
        elif isinstance(fault, int) and fault:
            status, body = fault, {"error": {"message": "no", "code": None}}
        else:
            status, body = 200, self._completion(asked)
        data = b"<html>it works</html>" if fault == "garbage" else json.dumps(body).encode()
        if self.log and status == 200:
            with self._lock, self.log.open("a") as file:
                file.write(json.dumps(asked["messages"]) + "\n")
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            if self.retry_after:
                handler.send_header("Retry-After", self.retry_after)
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            pass

    def _completion(self, asked):
        text = self.write(asked["messages"])
        if not isinstance(text, str):
            return text
        prompt = sum(len(m["content"].split()) for m in asked["messages"])
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": asked["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {
                "prompt_tokens": prompt, "completion_tokens": len(text.split()),
                "total_tokens": prompt + len(text.split()),
            },
        }  # fmt: skip


if __name__ == "__main__":
    _port, _name, _log = sys.argv[1:4]
    _module, _, _function = _name.partition(":")
    sys.path.insert(0, str(Path(__file__).parent))
    ChatServer(getattr(importlib.import_module(_module), _function), int(_port), Path(_log)).serve()
