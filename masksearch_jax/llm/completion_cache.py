"""Completions on disk, so that nothing is paid for twice: neither by a run that was killed nor by the next one.

The cache is one SQLite file; the key is a hash of model, conversation and sampling. A completion is stored in a
transaction of its own as soon as it arrives, so a kill loses only what was in progress. The rows are also the account:
what was spent is the sum over them. Left out: eviction. Delete the file to forget.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from masksearch_jax.llm.chat_types import Completion, Message, Sampling, Usage

_SCHEMA = """
create table if not exists completions (
    key text primary key, model text not null, text text not null, finish text not null,
    prompt_tokens integer not null, completion_tokens integer not null
) without rowid
"""
_BUSY_S = 60.0  # how long to wait while another process writes


class Cache:
    """A cache of completions. Thread-safe. Several processes may share the file."""

    def __init__(self, path: Path | str):
        """Open the file `path`, which is created if missing. Raises ValueError for a file that is no such cache."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")  # safe against kills; a power cut may lose the last ones
            self._db.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{path} is no cache of completions ({error}); move it away, or name another") from error

    def get(self, key: str) -> Completion | None:
        with self._lock:
            row = self._db.execute(
                "select text, prompt_tokens, completion_tokens, finish from completions where key = ?", (key,)
            ).fetchone()
        return row and Completion(row[0], Usage(row[1], row[2]), row[3])

    def put(self, key: str, model: str, completion: Completion) -> None:
        usage = completion.usage
        row = (key, model, completion.text, completion.finish, usage.prompt_tokens, usage.completion_tokens)
        with self._lock:
            self._db.execute("insert or ignore into completions values (?, ?, ?, ?, ?, ?)", row)

    def spent(self, model: str) -> Usage:
        """Return the tokens of all completions of a model that the file holds."""
        with self._lock:
            row = self._db.execute(
                "select total(prompt_tokens), total(completion_tokens) from completions where model = ?", (model,)
            ).fetchone()
        return Usage(int(row[0]), int(row[1]))

    def __len__(self) -> int:
        with self._lock:
            return self._db.execute("select count(*) from completions").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            self._db.close()


def key_of(model: str, messages: Sequence[Message], sampling: Sampling) -> str:
    """Return the hash of everything that decides a completion."""
    parts = [
        model,
        [[m.role, m.content] for m in messages],
        [float(sampling.temperature), sampling.max_tokens, sampling.seed],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()
