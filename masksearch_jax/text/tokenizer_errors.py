"""Errors that name the file when the tokenizers library fails on a damaged one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Turn what the library raises inside the block into a ValueError that names the file.

    A file may be JSON and still not be what the library expects. The library then raises a plain Exception, or panics,
    which is no Exception. Our own ValueError and FileNotFoundError pass unchanged, because they name a file already.
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


def tokens_by_id(vocabulary: dict[str, int], file: Path) -> dict[int, str]:
    """Return {id: token}. Raises ValueError for two tokens with one id, because a text could show the wrong one."""
    tokens: dict[int, str] = {}
    for token, id in sorted(vocabulary.items()):
        if id in tokens:
            raise ValueError(f"{file}: the tokens {tokens[id]!r} and {token!r} have one id, {id}; download it again")
        tokens[id] = token
    return tokens
