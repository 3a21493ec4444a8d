"""Groups of exchangeable tokens: vocabulary entries whose only meaning is that they name something.

Enters: training passages with the places of names (link anchors, mentions of the title) and the tokenizer. Leaves:
groups of token ids, within which training may permute (data/token_permutation.py): digits; digit pairs; months; whole
words that only ever begin a name; whole words that only ever continue one. A token that is also seen in another role is
in no group. In real text hardly any word is so pure, and names are made of parts of words. `parts` therefore takes the
tokens that mostly write capitalised words instead.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from masksearch_jax.text import stop_automaton
from masksearch_jax.text.tokenizer import FIGURES
from masksearch_jax.text.tokenizer_protocol import Tokenizer

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_FIRST, _FOLLOWING, _OUTSIDE = 0, 1, 2
_LETTER = re.compile(r"[^\W\d_]")
_BEGINS = re.compile(r"▁[A-Z][^\W\d_]*")
_GOES_ON = re.compile(r"[^\W\d_]+")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


Group: TypeAlias = list[int] | list[list[int]]  # ids, or the ids of each figure


def groups(
    named: Iterable[tuple[str, Sequence[tuple[int, int]]]],
    tokenizer: Tokenizer,
    names: bool = True,
    digits: bool = True,
    months: bool = True,
    parts: bool = False,
) -> list[Group]:
    """Return the disjoint groups of two or more members, ascending; a member is an id, or all ids of one figure.

    named: (text, character spans of the names in it). The other arguments turn groups on and off. names: the two groups
    of words of names. parts: take these two groups from parts of words instead, for which only the texts are read.
    """
    found: list[Group] = []
    named = list(named)
    if digits:
        for figures in FIGURES.values():
            forms = [[i for token in figure if (i := _lookup(tokenizer, token)) is not None] for figure in figures]
            most = max(map(len, forms))
            whole = [ids for ids in forms if ids and len(ids) == most]
            found.append(whole if most > 1 else [ids[0] for ids in whole])
    if months:
        found.append([i for month in _MONTHS if (i := _lookup(tokenizer, "▁" + month)) is not None])
    if names:
        taken = {i for group in found for member in group for i in (member if isinstance(member, list) else [member])}
        for ids in _parts((text for text, _ in named), tokenizer) if parts else _words(named, tokenizer):
            found.append([i for i in ids if i not in taken])
    kept = [group for group in found if len(group) >= 2]
    for group in kept:
        group.sort()
    return kept


def mentions(text: str, title: str) -> list[tuple[int, int]]:
    """Return the character spans at which the title occurs in the text as whole words."""
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(title)}(?!\w)", text)]


def _lookup(tokenizer: Tokenizer, token: str) -> int | None:
    try:
        return tokenizer.id(token)
    except KeyError:
        return None


def _is_name(tokenizer: Tokenizer, id: int) -> bool:
    token = tokenizer.token(id)
    return token.startswith("▁") and token[1:2].isupper()


def _words(named: Iterable[tuple[str, Sequence[tuple[int, int]]]], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the whole words that only ever begin a name, and those that only ever continue one."""
    roles = _roles(named, tokenizer)
    only = [roles[role] & ~np.delete(roles, role, axis=0).any(axis=0) for role in (_FIRST, _FOLLOWING)]
    return [[i for i in np.flatnonzero(mask).tolist() if _is_name(tokenizer, i)] for mask in only]


def _parts(texts: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the tokens that begin words of names, and those that continue them.

    A token is taken if it is seen in capitalised words at least as often as in others. First words of sentences are
    capitalised anyway, so they tell nothing of a token, unless it is seen in them more than twice as often as in names
    ('His'): then it is left out. Left out too are tokens that can be part of a tag that ends a turn ('an' in
    '</answer>'), since the places where turns end must not change.
    """
    words: dict[str, Counter[str]] = {"name": Counter(), "first": Counter(), "other": Counter()}
    for text in texts:
        first = True
        for word in text.split():
            if letter := _LETTER.search(word):
                words["other" if not letter[0].isupper() else "first" if first else "name"][word] += 1
            first = word[-1] in ".!?"
    seen = {role: np.zeros(tokenizer.vocab_size, int) for role in words}
    for role, counts in words.items():
        for word, count in counts.items():
            np.add.at(seen[role], tokenizer.encode(f" {word}"), count)
    kept = (seen["name"] > 0) & (seen["name"] >= seen["other"]) & (2 * seen["name"] >= seen["first"])
    kinds = stop_automaton.build_table(tokenizer).kinds
    ids = np.flatnonzero(kept & (kinds == np.bincount(kinds).argmax())).tolist()
    return [[i for i in ids if form.fullmatch(tokenizer.token(i))] for form in (_BEGINS, _GOES_ON)]


def _roles(named: Iterable[tuple[str, Sequence[tuple[int, int]]]], tokenizer: Tokenizer) -> np.ndarray:
    """Return bool [3, V]: in which roles (first, following, outside) each token was seen."""
    tokens = (tokenizer.token(i) for i in range(tokenizer.vocab_size))
    lengths = np.array([1 if _BYTE_TOKEN.fullmatch(p) else len(p.replace("▁", " ").encode()) for p in tokens])
    seen = np.zeros((3, tokenizer.vocab_size), bool)
    for text, spans in named:
        text = " " + text
        ids = np.array(tokenizer.encode(text))
        ends = np.cumsum(lengths[ids])
        starts = ends - lengths[ids]
        role = np.full(len(ids), _OUTSIDE)
        at = {span: place for place, span in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))}
        for start, end in spans:
            for number, word in enumerate(re.finditer(r"\S+", text[start + 1 : end + 1])):
                # The token of a whole word includes the space before it.
                first, last = start + word.start(), start + word.end() + 1
                place = at.get((len(text[:first].encode()), len(text[:last].encode())))
                if place is not None:
                    role[place] = _FIRST if number == 0 else _FOLLOWING
        seen[role, ids] = True
    return seen
