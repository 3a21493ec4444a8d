"""The vectors of a corpus on disk, encoded part by part, so that a killed build goes on where it stopped.

Enters: texts in the order of the corpus, an encoder, what identifies both. Leaves: FOLDER/vectors.npy, float32 [N, D],
memory-mapped and never held in memory. On the way there: vectors.json (the identity; vectors of any other are refused)
and part-00000.npy, .. of `PART_ROWS` rows. Each part is first written under another name, so that a part that exists is
whole. Several hosts that share the folder divide the parts by number. Left out: removing the folder (the caller does).
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from masksearch_jax.retrieval.encoders.encoder import Encoder
from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.runtime.types import JsonObject

FORMAT = 1
PART_ROWS = 4096  # a kill costs one part: minutes of a core with MiniLM; 6 MB at 384 dimensions
_IDENTITY_FILE, _VECTORS_FILE = "vectors.json", "vectors.npy"


class CorpusVectors:
    """The folder of the vectors of one corpus by one encoder; made if it does not exist."""

    def __init__(self, directory: Path | str, encoder: Encoder, passages_sha256: str, rows: int):
        """Raise ValueError if the folder holds vectors of another corpus or encoder."""
        self._directory, self._encoder, self._rows = Path(directory), encoder, rows
        self._part_rows = PART_ROWS
        self._identity: JsonObject = {
            "format": FORMAT,
            "encoder_fingerprint": encoder.fingerprint,
            "passages_sha256": passages_sha256,
            "shape": [rows, encoder.dims],
            "dtype": "float32",
            "part_rows": self._part_rows,
        }
        self._directory.mkdir(parents=True, exist_ok=True)
        self._check_identity()

    def encode(
        self,
        texts: Iterable[str],
        progress: Callable[[int, int], None] = lambda done, total: None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Encode the missing parts among those whose number is `process_index` modulo `process_count`.

        texts: the whole corpus, in order. progress: called with (rows done, all rows) after each part, encoded or not.
        """
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index is {process_index}, must lie between 0 and {process_count - 1}")
        if (self._directory / _VECTORS_FILE).exists():
            return progress(self._rows, self._rows)
        texts = iter(texts)
        for number in range(self._parts):
            batch, path = list(islice(texts, self._part_rows)), self._part(number)
            start, stop = self._span(number)
            if len(batch) != stop - start:
                raise ValueError(f"the corpus ended after {start + len(batch)} texts, {self._rows} were announced")
            if number % process_count == process_index and not path.exists():
                vectors = self._encoder.encode_passages(batch).astype(np.float32, copy=False)
                with _whole(path) as file:
                    np.save(file, vectors)
            progress(stop, self._rows)

    def open(self) -> np.ndarray:
        """Return float32 [N, D], mapped from disk, read-only.

        The first call joins the parts and removes them; another host may do the same at that moment. Raises
        FileNotFoundError that names parts not encoded yet, ValueError that names a damaged one.
        """
        path = self._directory / _VECTORS_FILE
        if not path.exists():
            try:
                self._join(path)
            except FileNotFoundError:
                if not path.exists():  # otherwise another host has joined the parts and removed them
                    raise self._not_encoded() from None
        for number in range(self._parts):
            self._part(number).unlink(missing_ok=True)
        return np.load(path, mmap_mode="r")

    def _not_encoded(self) -> FileNotFoundError:
        missing = [number for number in range(self._parts) if not self._part(number).exists()]
        shown = ", ".join(map(str, missing[:8])) + (", .." if len(missing) > 8 else "")
        return FileNotFoundError(
            f"{self._directory}: {len(missing)} of {self._parts} parts are not encoded yet ({shown}); "
            "wait for the other hosts, or run the build again, which encodes them"
        )

    @property
    def _parts(self) -> int:
        return -(-self._rows // self._part_rows)

    def _part(self, number: int) -> Path:
        return self._directory / f"part-{number:05d}.npy"

    def _span(self, number: int) -> tuple[int, int]:
        start = number * self._part_rows
        return start, min(start + self._part_rows, self._rows)

    def _check_identity(self) -> None:
        path = self._directory / _IDENTITY_FILE
        if path.exists():
            found = read_json_object(path, "remove its folder and prepare again")
            different = sorted(name for name in found | self._identity if found.get(name) != self._identity.get(name))
            if not different:
                return
            if self._holds_vectors():
                raise ValueError(
                    f"{self._directory} holds vectors of an earlier build that differs in {', '.join(different)}; go "
                    f"back to its passages and encoder settings, or give its vectors up: rm -r {self._directory}"
                )
        elif self._holds_vectors():
            raise ValueError(f"{self._directory} holds vectors but no {_IDENTITY_FILE}: rm -r {self._directory}")
        with _whole(path) as file:
            file.write(json.dumps(self._identity, indent=1).encode() + b"\n")

    def _holds_vectors(self) -> bool:
        return any(self._directory.glob("*.npy"))

    def _join(self, path: Path) -> None:
        with _whole(path) as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
            np.lib.format.write_array_header_2_0(file, header | {"shape": tuple(self._identity["shape"])})
            for number in range(self._parts):
                np.asarray(self._read(number)).tofile(file)

    def _read(self, number: int) -> np.ndarray:
        path, (start, stop) = self._part(number), self._span(number)
        expected = (stop - start, self._encoder.dims)
        try:
            part = np.load(path, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it and run the build again") from error
        if part.shape != expected or part.dtype != np.float32:
            raise ValueError(
                f"{path} is {part.dtype} {part.shape}, not float32 {expected}; remove it and run the build again"
            )
        return part


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that gets its name once it is complete and on disk. Other hosts may be writing the same."""
    partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.rename(path)
