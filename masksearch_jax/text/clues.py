"""The words around each mask once more, for an instruction that says them and a thought that goes on from them.

Enters: a masked passage, or a question whose instruction has a mask for the answer ("The answer is [mask]."). Leaves:
strings, one for each mask. They are cut at a neighbouring mask, so that a clue holds one mask, and behind the mask at
the end of a sentence. `prep/ramp.py` has the same in TensorFlow.
"""

import re

from masksearch_jax.text import tags

BEFORE, AFTER = 10, 4  # words of a clue
PLACEHOLDER = "{clues}"  # in an instruction: where the clues stand
SEPARATOR = "; "
REST = " \t\n\f\r.,;:!?)"  # what stands behind a neighbouring mask and belongs to no clue
_WORD = re.compile(r"[^ \t\n\f\r]+")


def leads(masked: str, words: int = BEFORE) -> list[str]:
    """Return for each mask the last `words` words before it, with the blank space that parts them from it."""
    return [_last(part, words) for part in masked.split(tags.MASK)[:-1]]


def clues(masked: str) -> list[str]:
    """Return for each mask '"words before [mask] words after"'."""
    parts = masked.split(tags.MASK)
    pairs = zip(leads(masked), parts[1:], strict=True)
    return [f'"{before}{tags.MASK}{_first(after, AFTER)}"' for before, after in pairs]


def filled_in(instruction: str, masked: str) -> str:
    """Return an instruction with the clues of a passage in place of '{clues}'; one without it as it is."""
    shown = SEPARATOR.join(clues(masked)) if PLACEHOLDER in instruction else ""
    return instruction.replace(PLACEHOLDER, shown)


def asked(instruction: str) -> str:
    """Return what an instruction says, with its own masks, before it says their clues: what a question and it are
    clues of together."""
    return instruction.partition(PLACEHOLDER)[0]


def shortened(lead: str, share: float) -> str:
    """Return the last words of a lead, a share of them."""
    return _last(lead, round(share * len(_WORD.findall(lead))))


def _last(text: str, words: int) -> str:
    starts = [m.start() for m in _WORD.finditer(text)][-words:]
    return text[starts[0] :].lstrip(REST) if starts and words else ""


def _first(text: str, words: int) -> str:
    found = list(_WORD.finditer(text))[:words]
    end = next((m.end() for m in found if m[0][-1] in ".!?"), found[-1].end() if found else 0)
    return text[:end]
