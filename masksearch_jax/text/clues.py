"""Clues: the words around each mask, for an instruction that repeats them and a thought that continues them.

Enters: a masked passage, or a question whose instruction has a mask for the answer ("The answer is [mask]."). Leaves:
strings, one for each mask. A clue is cut at the neighbouring masks, so that it holds one mask, and after its mask also
at the end of the sentence. `prep/tasks/ramp.py` does the same in TensorFlow.
"""

import re

from masksearch_jax.text import tags

BEFORE, AFTER = 10, 8  # words of a clue
PLACEHOLDER = "{clues}"  # replaced by the clues in an instruction
SEPARATOR = "; "
REST = " \t\n\f\r.,;:!?)"  # characters right after a neighbouring mask, which belong to no clue
_WORD = re.compile(r"[^ \t\n\f\r]+")


def leads(masked: str, words: int = BEFORE) -> list[str]:
    """Return for each mask the last `words` words before it, with the whitespace between them and the mask."""
    return [_last(part, words) for part in masked.split(tags.MASK)[:-1]]


def clues(masked: str) -> list[str]:
    """Return for each mask '"words before [mask] words after"'."""
    parts = masked.split(tags.MASK)
    pairs = zip(leads(masked), parts[1:], strict=True)
    return [f'"{before}{tags.MASK}{_first(after, AFTER)}"' for before, after in pairs]


def query(masked: str, index: int) -> str:
    """Return the clue of mask `index` (from 0) without the mask, as a query for what its sentence says."""
    parts = masked.split(tags.MASK)
    before, after = (tags.neutralise(part) for part in parts[index : index + 2])
    return f"{_last(before, BEFORE)}{_first(after, AFTER)}".strip(REST)


def filled_in(instruction: str, masked: str) -> str:
    """Return an instruction with '{clues}' replaced by the clues of a passage, if it has '{clues}'."""
    shown = SEPARATOR.join(clues(masked)) if PLACEHOLDER in instruction else ""
    return instruction.replace(PLACEHOLDER, shown)


def asked(instruction: str) -> str:
    """Return the part of an instruction before '{clues}', which may hold masks.

    A question followed by this part is the text that the clues are taken from.
    """
    return instruction.partition(PLACEHOLDER)[0]


def shortened(lead: str, share: float) -> str:
    """Return the last words of a lead: the given share of its words."""
    return _last(lead, round(share * len(_WORD.findall(lead))))


def _last(text: str, words: int) -> str:
    starts = [m.start() for m in _WORD.finditer(text)][-words:]
    return text[starts[0] :].lstrip(REST) if starts and words else ""


def _first(text: str, words: int) -> str:
    found = list(_WORD.finditer(text))[:words]
    end = next((m.end() for m in found if m[0][-1] in ".!?"), found[-1].end() if found else 0)
    return text[:end]
