"""Where an observation states an answer: what the oracle quotes before it answers, as a reader would find it again.

Enters: what was shown, an answer, the text before the mask. Leaves: the quote, and how many of its words lead there.
"""

import re

from masksearch_jax.text import answers


def leading(before: str, words: int) -> str:
    """The last `words` words (1 or more) of `before`; fewer where it is shorter."""
    return " ".join(before.split()[-words:])


def quote(shown: str, answer: str, before: str, words: int) -> tuple[str, int]:
    """The `leading` words of `before` and the answer, and after how many of these words, at most, the answer stands in
    the text `shown`; ("", 0) if it stands nowhere there."""
    ending, best = leading(before, words).split(), -1
    for match in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", shown):
        alike = 0
        for one, other in zip(reversed(shown[: match.start()].split()), reversed(ending), strict=False):
            if answers.normalize(one) != answers.normalize(other):
                break
            alike += 1
        best = max(best, alike)
    return (" ".join([*ending, answer]), best) if best >= 0 else ("", 0)
