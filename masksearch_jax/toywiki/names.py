"""Invented words for names, in two pools drawn by a syllable generator.

Enters: pool sizes, a seeded generator, words that are taken. Leaves: capitalised words. First words are short ("Karv",
"Belza"), second words end in one of a few syllables ("Velith"). No two words of both pools share their first three
letters while such words last, and never their first four, so that their tokens stay apart. world.py decides which
entity gets which words.
"""

import random
from collections.abc import Set

_ONSETS = "bdfghjklmnprstvwyz"
_VOWELS = "aeiou"
# Endings that hardly any English word has, so that a name is not mistaken for one.
_CODAS = ("lko", "lv", "lvu", "lza", "mre", "mro", "nku", "nzo", "rgu", "rv", "rzo")
_MIDDLES = "bdfgkpstvz"
_ENDINGS = ("ith", "oul", "ael", "inth", "ayd", "orv", "eth", "ond")
# Real words and names that the patterns can spell nevertheless.
_REAL = frozenset("banzo benzo gonzo japeth judith ponzo rafael zenith".split())


def alias(title: str) -> str:
    """Return the other form of a two-word name: 'Velith, Karv' for 'Karv Velith'."""
    first, second = title.split()
    return f"{second}, {first}"


def draw_pools(first: int, second: int, taken: Set[str], rng: random.Random) -> tuple[list[str], list[str]]:
    """Return `first` first words and `second` second words, all distinct and none (lower-cased) in `taken`.

    Raises ValueError if the generator cannot spell that many.
    """
    starts = [a + b for a in _ONSETS for b in _VOWELS]
    patterns = (
        (first, "first", [s + coda for s in starts for coda in _CODAS]),
        (second, "second", [s + middle + ending for s in starts for middle in _MIDDLES for ending in _ENDINGS]),
    )
    pools: list[list[str]] = []
    used: set[str] = set()
    for count, name, words in patterns:
        rng.shuffle(words)
        usable = [w for w in words if w not in taken and w not in _REAL]
        pool: list[str] = []
        for letters in (3, 4):
            for word in usable:
                if len(pool) < count and word[:letters] not in used:
                    pool.append(word)
                    used.update((word[:3], word[:4]))
        if len(pool) < count:
            raise ValueError(f"{name}_words={count}: the syllable generator can spell only {len(pool)}; ask for fewer")
        pools.append([w.capitalize() for w in pool])
    return pools[0], pools[1]
