"""Failures of the tokenizers library on a damaged file, as errors that name the file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Turn what the library raises inside the block into a ValueError that names the file.

    A file may be JSON and still not what the library expects. It then raises plain Exception, or panics, which is no
    Exception. ValueError and FileNotFoundError of our own pass as they are: they name a file already.
    """
    try:
        yield
    except (ValueError, FileNotFoundError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interrupt
        raise ValueError(
            f"{path} is no tokenizer that can be read ({type(error).__name__}: {error}); download the folder again"
        ) from error


def pieces_by_id(vocabulary: dict[str, int], file: Path) -> dict[int, str]:
    """Return id -> piece. Raise ValueError for two pieces of one id, of which a text would show the wrong one."""
    pieces: dict[int, str] = {}
    for piece, id in sorted(vocabulary.items()):
        if id in pieces:
            raise ValueError(f"{file}: the pieces {pieces[id]!r} and {piece!r} have one id, {id}; download it again")
        pieces[id] = piece
    return pieces
