"""Where an observation states an answer: what the rule-based teacher quotes before it answers.

Enters: what was shown, an answer, the text before the mask. Leaves: the quote, and how many of its words stand before
the answer in what was shown too, so that a reader would find it again.
"""

import re

from masksearch_jax.scoring import answer_metrics


def leading(before: str, words: int) -> str:
    """Return the last `words` words (1 or more) of `before`; fewer if it is shorter."""
    return " ".join(before.split()[-words:])


def quote(shown: str, answer: str, before: str, words: int) -> tuple[str, int]:
    """Return (the `leading` words of `before` and the answer, how many of these words precede the answer in `shown`).

    The words are counted backwards from the answer, at the place in `shown` where the most agree. The result is ("", 0)
    if the answer is not in `shown`."""
    ending, best = leading(before, words).split(), -1
    for match in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", shown):
        alike = 0
        for one, other in zip(reversed(shown[: match.start()].split()), reversed(ending), strict=False):
            if answer_metrics.normalize(one) != answer_metrics.normalize(other):
                break
            alike += 1
        best = max(best, alike)
    return (" ".join([*ending, answer]), best) if best >= 0 else ("", 0)
