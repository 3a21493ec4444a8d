"""From the text of a final turn to scores against gold answers: normalisation, token recall, F1, exact match.

In: decoded text of a turn or an answer, the masked passage, gold strings (all accepted forms of a span, gold first).
Out: spans in reading order and numbers in [0, 1]. Rewards and evaluation both score spans with these functions, never
a repeated paragraph: 13 of the 15 tokens of a copied masked passage can be right without a single span filled.
Left out: segmentation of scripts written without spaces (a Chinese span is one token: all or nothing) and the
yes / no special case of HotpotQA's F1.
"""

import collections
import functools
import re
import string
import unicodedata
from collections.abc import Sequence

from masksearch_jax.text import tags
from masksearch_jax.text.normal_forms import normal_form

# An answer is 'spans' (filled spans joined by '; '), 'paragraph' (the whole passage, masks filled in) or 'whole' (all
# of it is the one span: questions, whose answers may hold a ';').
ANSWER_FORMS = ("spans", "paragraph", "whole")

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANY_TAG = re.compile("|".join(map(re.escape, tags.ALL)))
_TEMPLATE_TAGS = tuple(tag for tag in tags.ALL if tag != tags.MASK)
# How many places a literal between two masks may be tried at; prose repeats " and " a few times, garbage without end.
_MAX_PLACES = 16


# --- Normalisation ---------------------------------------------------------------------------------------------------


@functools.cache
def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def normalize(text: str) -> str:
    """Returns text as SQuAD v1.1's evaluation compares it: lower case, no punctuation, no articles, single spaces.

    Equal to the official script on ASCII text. Beyond it: NFKC first and Unicode punctuation goes too, so that
    '1939–45' equals '1939-45'; letters, digits, marks and symbols of every script stay. Where nothing would be left
    ('The The', '!!!'), punctuation and articles are kept, so that no two such answers become equal by vanishing.
    """
    lowered = normal_form("NFKC", text).lower()
    without_punctuation = "".join(char for char in lowered if not _is_punctuation(char))
    normal = " ".join(_ARTICLES.sub(" ", without_punctuation).split())
    return normal or " ".join(lowered.split())


def _tokens(text: str) -> list[str]:
    return normalize(text).split()


def _check_golds(golds: Sequence[str]) -> None:
    if isinstance(golds, str) or not golds:
        raise ValueError(f"golds must be a non-empty sequence of accepted strings, got {golds!r}")


def _shared(pred: list[str], gold: list[str]) -> int:
    """Size of the multiset intersection."""
    return sum((collections.Counter(pred) & collections.Counter(gold)).values())


# --- Scores of one span ----------------------------------------------------------------------------------------------


def token_recall(pred: str, golds: Sequence[str]) -> float:
    """Returns |pred ∩ gold| / |gold| over multisets of normalised tokens, best over `golds` (the paper's metric).

    Raises ValueError if `golds` is empty or a bare string.
    """
    return recall_with_length_penalty(pred, golds, kappa=float("inf"))


def recall_with_length_penalty(pred: str, golds: Sequence[str], kappa: float) -> float:
    """Returns token recall times min(1, kappa * |gold| / |pred|), lengths in normalised tokens, best over `golds`.

    kappa is how many times longer than the gold an answer may be before it costs; it counters the enumerating answers
    that plain recall pays for (paper, section on rewards). Raises ValueError unless kappa > 0.
    """
    _check_golds(golds)
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    pred_tokens = _tokens(pred)
    if not pred_tokens:
        return 0.0
    best = 0.0
    for gold in golds:
        gold_tokens = _tokens(gold)
        if gold_tokens:
            recall = _shared(pred_tokens, gold_tokens) / len(gold_tokens)
            best = max(best, recall * min(1.0, kappa * len(gold_tokens) / len(pred_tokens)))
    return best


def f1(pred: str, golds: Sequence[str]) -> float:
    """Returns SQuAD's token F1, best over `golds`; 0 where either side is empty."""
    _check_golds(golds)
    pred_tokens = _tokens(pred)
    best = 0.0
    for gold in golds:
        gold_tokens = _tokens(gold)
        shared = _shared(pred_tokens, gold_tokens)
        if shared:
            best = max(best, 2 * shared / (len(pred_tokens) + len(gold_tokens)))
    return best


def exact_match(pred: str, golds: Sequence[str]) -> float:
    """Returns 1.0 if the normalised strings are equal for any of `golds` (and not empty), else 0.0."""
    _check_golds(golds)
    normal = normalize(pred)
    return float(bool(normal) and any(normal == normalize(gold) for gold in golds))


def contains(text: str, golds: Sequence[str]) -> bool:
    """Returns True if the normalised tokens of any of `golds` stand in `text` one after the other, as whole words.

    Tags count as white space, so that a word next to `</information>` is found.
    """
    _check_golds(golds)
    padded = f" {normalize(_ANY_TAG.sub(' ', text))} "
    return any(f" {normalize(gold)} " in padded for gold in golds if gold.strip())


# --- From a turn to spans --------------------------------------------------------------------------------------------


def answer_of(turn_text: str) -> str | None:
    """Returns what stands inside the answer tags of a turn, or None unless the turn ends with its only answer block.

    None for: no answer, an unclosed one, two of them, text after the closing tag, other tags inside the block.
    """
    opening, closing = tags.ANSWER
    text = turn_text.strip()
    if text.count(opening) != 1 or text.count(closing) != 1 or not text.endswith(closing):
        return None
    content = text[text.index(opening) + len(opening) : -len(closing)]
    if any(tag in content for tag in _TEMPLATE_TAGS):
        return None
    return content.strip()


def spans_of(
    answer_text: str, form: str, task_text: str, masks: int, golds: Sequence[Sequence[str]] | None = None
) -> list[str] | None:
    """Returns the `masks` filled spans of an answer in reading order, or None if it does not have the asked form.

    form: one of ANSWER_FORMS. task_text: the masked passage; only 'paragraph' reads it, and there every literal between
    the masks must be repeated as it stands (white space aside). golds: accepted strings of each span; where a paragraph
    can be cut in more than one way ('[mask] and [mask]' filled with 'Tom and Jerry'), the cut that fits them best.
    None for: wrong number of spans, an empty span, a span that still holds a mask, a template not preserved.
    Raises ValueError for an unknown form or a `task_text` that does not hold `masks` masks.
    """
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
    """Cuts a filled paragraph at the literals between the masks of its template; None where they are not there."""
    literals = " ".join(task_text.split()).split(tags.MASK)
    if len(literals) != masks + 1:
        raise ValueError(f"task_text holds {len(literals) - 1} masks, expected {masks}: {task_text!r}")
    text = " ".join(answer_text.split())
    if not text.startswith(literals[0]) or not text.endswith(literals[-1]):
        return None
    last = len(text) - len(literals[-1])

    def fit(index: int, span: str) -> float:
        return 0.0 if golds is None else f1(span, golds[index])

    # best[start] = (score, spans so far) over the cuts whose next span begins at `start`, shortest spans first.
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
    """Returns the first few positions in [start, end) where `literal` begins."""
    places = []
    position = text.find(literal, start, end)
    while position != -1 and len(places) < _MAX_PLACES:
        places.append(position)
        position = text.find(literal, position + 1, end)
    return places
