"""Where an observation states an answer: what the oracle quotes before it answers, as a reader would find it again.

Enters: what was shown, an answer, the text before the mask. Leaves: the quote, and how many words lead there.
"""

import re

from masksearch_jax.text import answers


def quote(shown: str, answer: str, before: str, words: int) -> tuple[str, int]:
    """The answer with the words ahead of it in the text `shown` with which `before` ends too, `words` (1 or more) at
    most, and how many these are. Of the places where the answer stands the first with most of them; ("", 0) if there
    is none."""
    ending = before.split()
    found = ("", 0)
    for match in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", shown):
        ahead = shown[: match.start()].split()[-words:]
        alike = 0
        for one, other in zip(reversed(ahead), reversed(ending), strict=False):
            if answers.normalize(one) != answers.normalize(other):
                break
            alike += 1
        if alike > found[1] or not found[0]:
            found = " ".join([*ahead[len(ahead) - alike :], answer]), alike
    return found
