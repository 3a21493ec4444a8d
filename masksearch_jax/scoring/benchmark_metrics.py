"""Scores of benchmark answers by the definitions of the benchmarks' own scripts.

In: the answer's text, the accepted strings, and for FanOutQA the structured reference. Out: numbers in [0, 1], the best
over the accepted strings. scoring/answer_metrics.py gives the scores that training sees, the same for every task and
every writing system. Here a number must be comparable with a published one, so each benchmark keeps its own
normalisation and special cases:

* SQuAD 1.1 (NQ-open, PopQA, Bamboogle, FreshQA as Search-R1 scores them): lower case, ASCII punctuation deleted,
  articles deleted, single spaces; token F1, exact match.
* HotpotQA and 2WikiMultiHopQA: as SQuAD, but yes, no and noanswer share nothing with any other answer.
* MuSiQue: as SQuAD, but two answers without any token have F1 1, as in SQuAD 2.0.
* TriviaQA: punctuation and curly quotes become spaces, underscores too.
* FanOutQA: the share of the reference's strings that stand in the answer as whole words (loose accuracy).

For every benchmark, recall is the paper's metric on the tokens of `answer_metrics.normalize`.
"""

import collections
import dataclasses
import re
import string
from collections.abc import Callable, Sequence

from masksearch_jax.runtime.types import Json
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text.normal_forms import normal_form

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETED = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_STRAIGHT = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})
_GROUPED = re.compile(r"(?<!\d)(?:\d++,)+\d++(?:\.\d+)?")
_MARKS = re.compile(r"[,.?!:;]")


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one answer. loose: FanOutQA's loose accuracy, None where there is no structured reference."""

    recall: float
    f1: float
    em: float
    loose: float | None = None


def squad_normal(text: str) -> str:
    """Return text as the scripts of SQuAD, HotpotQA, 2WikiMultiHopQA and MuSiQue compare it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETED)).split())


def trivia_normal(text: str) -> str:
    """Return text as TriviaQA's script compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACED)).split())


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a benchmark scores answers.

    normal: its normalisation. closed: answers that share no token with any other. empty: F1 of two empty answers."""

    normal: Callable[[str], str] = squad_normal
    closed: tuple[str, ...] = ()
    empty: float = 0.0

    def em(self, pred: str, golds: Sequence[str]) -> float:
        """Return 1.0 if the normalised strings are equal for any of `golds`, else 0.0."""
        return float(self.normal(pred) in map(self.normal, golds))

    def f1(self, pred: str, golds: Sequence[str]) -> float:
        """Return the token F1, the best over `golds`."""
        return max(self._f1(self.normal(pred), self.normal(gold)) for gold in golds)

    def _f1(self, pred: str, gold: str) -> float:
        left, right = pred.split(), gold.split()
        if not left and not right:
            return self.empty
        if pred != gold and (pred in self.closed or gold in self.closed):
            return 0.0
        shared = sum((collections.Counter(left) & collections.Counter(right)).values())
        return 2 * shared / (len(left) + len(right))


_YES_NO = Rules(closed=("yes", "no", "noanswer"))
# The rules by benchmark (evals/benchmarks.py); all other benchmarks have those of SQuAD.
RULES = {
    "squad": Rules(),
    "hotpotqa": _YES_NO,
    "two_wiki": _YES_NO,
    "musique": Rules(empty=1.0),
    "triviaqa": Rules(normal=trivia_normal),
}


# What a benchmark of one's own may be judged by; 'contains': an accepted string stands in the answer as whole words.
METRICS = ("em", "f1", "recall", "contains")


@dataclasses.dataclass(frozen=True)
class ChosenMetric:
    """How a benchmark of one's own is scored. name: one of METRICS. rules: a key of RULES, for EM and F1."""

    name: str = "em"
    rules: str = "squad"

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"benchmarks.metric={self.name!r} is none of {METRICS}")
        if self.rules not in RULES:
            raise ValueError(f"benchmarks.rules={self.rules!r} is none of {tuple(RULES)}")

    def of(self, pred: str, golds: Sequence[str]) -> tuple[Scores, float]:
        """Return the usual scores of an answer by the chosen rules, and the one score that counts, in [0, 1]."""
        found = score(self.rules, pred, golds)
        if self.name == "contains":
            return found, float(answer_metrics.contains(pred, golds))
        return found, float(getattr(found, self.name))


def score(benchmark: str, pred: str, golds: Sequence[str], reference: Json = None) -> Scores:
    """Return the scores of one answer. Raises ValueError if `golds` is empty or a bare string."""
    answer_metrics.check_golds(golds)
    recall = max(
        _recall(answer_metrics.normalize(pred).split(), answer_metrics.normalize(gold).split()) for gold in golds
    )
    rules = RULES.get(benchmark, Rules())
    loose = None if reference is None else loose_accuracy(reference, pred)
    return Scores(recall, rules.f1(pred, golds), rules.em(pred, golds), loose)


def _recall(pred: list[str], gold: list[str]) -> float:
    return sum((collections.Counter(pred) & collections.Counter(gold)).values()) / len(gold) if gold else 0.0


def loose_accuracy(reference: Json, pred: str, lemmatise: Callable[[str], str] = str) -> float:
    """Return FanOutQA's loose accuracy: the share of a reference's strings that stand in `pred`.

    reference: a string, number or bool ('yes', 'no'), a list of them, or a mapping, whose keys count like its values.
    lemmatise: lower-case text -> its lemmas joined by spaces. The official code takes those of spaCy's en_core_web_sm;
    without them (the default) 'directors' does not match 'director'. docs/guides/benchmarks.md says how often that
    matters. Raises ValueError for a reference without any string.
    """
    text = _fanout_normal(pred, lemmatise)
    strings = len(reference) * (2 if isinstance(reference, dict) else 1) if isinstance(reference, dict | list) else 1
    if not strings:
        raise ValueError(f"the reference answer {reference!r} holds no string to look for")
    return (strings - _missing(reference, text, lemmatise)) / strings


def _missing(reference: Json, text: str, lemmatise: Callable[[str], str]) -> int:
    """Return how many strings of the reference do not stand in the normalised text."""
    if isinstance(reference, dict):
        return sum(_missing(item, text, lemmatise) for pair in reference.items() for item in pair)
    if isinstance(reference, list):
        return sum(_missing(item, text, lemmatise) for item in reference)
    if isinstance(reference, bool):
        reference = "yes" if reference else "no"
    wanted = re.escape(_fanout_normal(str(reference), lemmatise))
    return int(not re.search(rf"\b{wanted}\b", text))


def _fanout_normal(text: str, lemmatise: Callable[[str], str]) -> str:
    """Return text in lower case with straight quotes, 1,234 as 1234, lemmas, no .,?!:; and single spaces."""
    plain = normal_form("NFC", text.lower()).translate(_STRAIGHT)
    plain = _GROUPED.sub(lambda match: match[0].replace(",", ""), plain)
    return re.sub(r"\s+", " ", _MARKS.sub("", lemmatise(plain)))
