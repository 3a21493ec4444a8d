"""Scores of an answer against gold answers: normalisation, token recall, F1, exact match.

In: an answer as the episode read it (text/prompt.py), the masked passage, gold strings (all accepted forms of a span,
the gold one first). Out: spans in reading order and numbers in [0, 1]. Rewards and evaluation both score spans with
these functions, never a repeated paragraph: 13 of the 15 tokens of a copied masked passage can be right without a
single span filled. Words are compared as SQuAD compares them; numbers, times and dates are compared by their values
(scoring/number_tokens.py). Left out: segmentation of scripts written without spaces (a Chinese span is one token: all
or nothing) and the yes / no special case of HotpotQA's F1.
"""

import collections
import functools
import re
import string
import unicodedata
from collections.abc import Sequence

from masksearch_jax.scoring import number_tokens
from masksearch_jax.text import tags
from masksearch_jax.text.normal_forms import normal_form

# An answer is 'spans' (filled spans joined by '; '), 'paragraph' (the whole passage, masks filled in) or 'whole' (the
# whole answer is one span, for questions, whose answers may hold a ';').
ANSWER_FORMS = ("spans", "paragraph", "whole")

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANY_TAG = re.compile("|".join(map(re.escape, tags.ALL)))
# How many positions are tried for a literal between two masks: prose repeats " and " a few times, garbage without end.
_MAX_PLACES = 16


# --- Normalisation ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1 << 12)  # not every character of Unicode for ever
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def normalize(text: str) -> str:
    """Return text as SQuAD v1.1's evaluation compares it: lower case, no punctuation, no articles, single spaces.

    On ASCII text this equals the official script. On other text, NFKC comes first and Unicode punctuation is removed
    too, so that '1939–45' equals '1939-45'; letters, digits, marks and symbols of every script stay. One exception:
    where nothing would be left ('The The', '!!!'), punctuation and articles are kept, so that two such answers do not
    become equal by vanishing.
    """
    lowered = _nfkc(text).lower()
    return _without_articles(_without_punctuation(lowered)) or " ".join(lowered.split())


def tokens(text: str) -> list[str]:
    """Return the tokens that scores compare: words as `normalize` leaves them, and each number in its one spelling.

    'About −3.50 °C, 1,234 m' has the tokens about, -3.5, °c, 1234, m.
    """
    rewritten = number_tokens.rewrite(text, _without_punctuation, _nfkc)
    return _without_articles(rewritten).split() or normalize(text).split()


def _nfkc(text: str) -> str:
    return normal_form("NFKC", text)


def _without_punctuation(text: str) -> str:
    return "".join(char for char in text if not _is_punctuation(char))


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split())


def check_golds(golds: Sequence[str]) -> None:
    """Raise ValueError if `golds` is empty or a bare string."""
    if isinstance(golds, str) or not golds:
        raise ValueError(f"golds must be a non-empty sequence of accepted strings, got {golds!r}")


def _shared(pred: list[str], gold: list[str]) -> int:
    """Return the size of the multiset intersection."""
    return sum((collections.Counter(pred) & collections.Counter(gold)).values())


# --- Scores of one span ----------------------------------------------------------------------------------------------


def token_recall(pred: str, golds: Sequence[str]) -> float:
    """Return |pred ∩ gold| / |gold| over multisets of `tokens`, the best over `golds` (the paper's metric).

    Raises ValueError if `golds` is empty or a bare string.
    """
    return recall_with_length_penalty(pred, golds, kappa=float("inf"))


def recall_with_length_penalty(pred: str, golds: Sequence[str], kappa: float) -> float:
    """Return token recall times min(1, kappa * |gold| / |pred|), lengths in `tokens`, the best over `golds`.

    kappa: how many times longer than the gold an answer may be without a penalty. The penalty counters answers that
    list many candidates, which plain recall rewards (paper, section on rewards). Raises ValueError unless kappa > 0.
    """
    check_golds(golds)
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    pred_tokens = tokens(pred)
    if not pred_tokens:
        return 0.0
    best = 0.0
    for gold in golds:
        gold_tokens = tokens(gold)
        if gold_tokens:
            recall = _shared(pred_tokens, gold_tokens) / len(gold_tokens)
            best = max(best, recall * min(1.0, kappa * len(gold_tokens) / len(pred_tokens)))
    return best


def f1(pred: str, golds: Sequence[str]) -> float:
    """Return the F1 of `tokens`, the best over `golds`; 0 where either side is empty."""
    check_golds(golds)
    pred_tokens = tokens(pred)
    best = 0.0
    for gold in golds:
        gold_tokens = tokens(gold)
        shared = _shared(pred_tokens, gold_tokens)
        if shared:
            best = max(best, 2 * shared / (len(pred_tokens) + len(gold_tokens)))
    return best


def exact_match(pred: str, golds: Sequence[str]) -> float:
    """Return 1.0 if the `tokens` are the same in the same order for any of `golds` (and not empty), else 0.0."""
    check_golds(golds)
    pred_tokens = tokens(pred)
    return float(bool(pred_tokens) and any(pred_tokens == tokens(gold) for gold in golds))


def contains(text: str, golds: Sequence[str]) -> bool:
    """Return True if the `tokens` of any of `golds` stand in `text` one after the other, as whole words.

    Tags count as whitespace, so that a word next to `</information>` is found.
    """
    check_golds(golds)
    padded = f" {' '.join(tokens(_ANY_TAG.sub(' ', text)))} "
    return any(f" {' '.join(tokens(gold))} " in padded for gold in golds if gold.strip())


# --- From an answer to spans -----------------------------------------------------------------------------------------


def is_given(question: str, golds: Sequence[str]) -> bool:
    """Return True for an answer that no passage has to state: yes or no, or one of the things the question names."""
    return golds[0].lower() in ("yes", "no") or contains(question, golds)


def spans_of(
    answer_text: str, form: str, task_text: str, masks: int, golds: Sequence[Sequence[str]] | None = None
) -> list[str] | None:
    """Return the `masks` filled spans of an answer in reading order, or None if it does not have the requested form.

    form: one of ANSWER_FORMS. task_text: the masked passage. Only 'paragraph' reads it, and requires every literal
    between the masks to be repeated as it stands (whitespace aside). golds: accepted strings of each span. Where a
    paragraph can be cut in more than one way ('[mask] and [mask]' filled with 'Tom and Jerry'), the cut that fits the
    golds best is taken. The result is None for a wrong number of spans, an empty span, a span that still holds a mask,
    or a template that was not preserved. Raises ValueError for an unknown form, and in the form 'paragraph' for a
    `task_text` that does not hold `masks` masks.
    """
    spans: list[str] | None
    if form == "spans":
        spans = [span.strip() for span in answer_text.split(tags.SPAN_SEPARATOR)]
    elif form == "whole":
        spans = [answer_text.strip()]
    elif form == "paragraph":
        spans = _align(answer_text, task_text, masks, golds)
    else:
        raise ValueError(f"answer form {form!r} is none of {ANSWER_FORMS}")
    if spans is None or len(spans) != masks or any(not span or tags.MASK in span for span in spans):
        return None
    return spans


def _align(answer_text: str, task_text: str, masks: int, golds: Sequence[Sequence[str]] | None) -> list[str] | None:
    """Cut a filled paragraph at the literals between the masks of its template; return None if one is missing."""
    literals = " ".join(task_text.split()).split(tags.MASK)
    if len(literals) != masks + 1:
        raise ValueError(f"task_text holds {len(literals) - 1} masks, expected {masks}: {task_text!r}")
    text = " ".join(answer_text.split())
    if not text.startswith(literals[0]) or not text.endswith(literals[-1]):
        return None
    last = len(text) - len(literals[-1])

    def fit(index: int, span: str) -> float:
        return 0.0 if golds is None else f1(span, golds[index])

    # best[start] = (score, spans so far) of the best cut whose next span begins at `start`, shortest spans first.
    best: dict[int, tuple[float, list[str]]] = {len(literals[0]): (0.0, [])}
    for index in range(masks - 1):
        reached: dict[int, tuple[float, list[str]]] = {}
        for start, (score, spans) in sorted(best.items()):
            for place in _places(text, literals[index + 1], start + 1, last):
                span, after = text[start:place], place + len(literals[index + 1])
                candidate = (score + fit(index, span), [*spans, span.strip()])
                if after not in reached or candidate[0] > reached[after][0]:
                    reached[after] = candidate
        best = reached
    finals = [
        (score + fit(masks - 1, text[start:last]), -start, [*spans, text[start:last].strip()])
        for start, (score, spans) in best.items()
        if start < last
    ]
    return max(finals)[2] if finals else None


def _places(text: str, literal: str, start: int, end: int) -> list[int]:
    """Return the first few positions in [start, end) where `literal` begins."""
    places: list[int] = []
    position = text.find(literal, start, end)
    while position != -1 and len(places) < _MAX_PLACES:
        places.append(position)
        position = text.find(literal, position + 1, end)
    return places
