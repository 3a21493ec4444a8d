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
