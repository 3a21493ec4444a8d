"""The assignment of articles to train, validation and test, by a file of titles or by a hash of the title.

Enters: a title. Leaves: 'train', 'validation' or 'test', the same in every run and on every machine.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.runtime.json_files import read_json_object

SPLITS = ("train", "validation", "test")


class Splits:
    """Splits by title. With a file, only the file decides: a title that it lacks is an error, never a guess."""

    def __init__(self, file: Path | str, shares: Mapping[str, float], seed: int):
        """Read the file if there is one, and check the settings.

        file: JSON {title: split}, or '' to use the hash. shares: of the articles in each split, adding up to 1. Raises
        ValueError or FileNotFoundError for settings that cannot work.
        """
        sound = set(shares) == set(SPLITS) and all(share >= 0 for share in shares.values())
        if not sound or not math.isclose(sum(shares.values()), 1):
            raise ValueError(f"shares={dict(shares)}: {SPLITS} must each have a share of 0 or more, 1 in total")
        self._file, self._titles = file, None
        if file:
            if not Path(file).is_file():
                raise FileNotFoundError(f"splits={file}: no such file; it must hold JSON {{title: split}}")
            self._titles = read_json_object(file, "splits has to name a file of JSON {title: split}")
            for title, split in self._titles.items():
                if split not in SPLITS:
                    raise ValueError(f"splits={file}: {title!r} has split {split!r}, known are {SPLITS}")
        self._shares, self._seed = dict(shares), seed

    def of(self, title: str) -> str:
        """Return the split of an article; raise ValueError if the file does not name it."""
        if self._titles is not None:
            if title not in self._titles:
                raise ValueError(f"splits={self._file}: it does not name the article {title!r}; each must be in it")
            return self._titles[title]
        return self.by_hash(title)

    def names(self, title: str) -> bool:
        """Return True if the file names the title, or if there is no file."""
        return self._titles is None or title in self._titles

    def by_hash(self, key: str) -> str:
        """Return the split that the shares give to any text, whatever the file says."""
        digest = hashlib.sha256(f"{self._seed}/{key}".encode()).digest()
        left = int.from_bytes(digest[:8], "big") / 2**64
        for split in SPLITS:
            left -= self._shares[split]
            if left < 0:
                return split
        return SPLITS[0]
