"""The thoughts of a rule-based teacher in words: what is missing and where to look, and what was read.

Enters: gaps (teachers/gaps.py), queries, quotations (teachers/quotes.py). Leaves: drafts of thoughts. A draft is a
function of a share: 1.0 gives all of it, less gives shorter clues and quotations, so that a turn can be made to fit.

Three styles are for a policy that is a language model. A fourth, 'words', is that of teachers/mask_teacher.py, for a
policy that can only copy.
  sentences  short sentences in several wordings, drawn for each task
  brief      one wording, a clue and a noun, and a quotation half as long: two thirds of the tokens
  cloze      no clue and no quotation. After reading it repeats the words before the mask (text/clues.py) and continues
             them with the answer, which is what a language model was trained to do. As short as brief
Every wording works with any clue: a clue or a quotation stands in quotation marks, a noun has its own article.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from masksearch_jax.teachers.gaps import Gap, with_article
from masksearch_jax.teachers.quotes import Quote
from masksearch_jax.text import clues

STYLES = ("words", "brief", "sentences", "cloze")
Draft = Callable[[float], str]

_ORDINALS = ("first", "second", "third", "fourth")
_NUMBERS = ("no", "one", "two", "three", "four")
_PLURALS = {"person": "people", "century": "centuries"}
_FEWEST_CLUE_WORDS = 2
_FEWEST_QUOTE_WORDS = 8

_ONE_GAP = (
    'The gap in "{clue}" is {a_noun}. I look up {query}.',
    '"{clue}" lacks {a_noun}. I search for {query}.',
    'I need {a_noun} for "{clue}". I look up {query}.',
    'What is missing in "{clue}" is {a_noun}. I search for {query}.',
)
_ONE_OF_SEVERAL = (
    'The {ordinal} gap, in "{clue}", is {a_noun}. {rest}I look up {query}.',
    'The {ordinal} gap is {a_noun}, in "{clue}". {rest}I search for {query}.',
)
_CLOZE_GAP = "The {ordinal}gap is {a_noun}. I look up {query}."
# A clue is long, and the query says it: the thought does not.
_CLOZE_GAP_BY_CLUE = "The {ordinal}gap is {a_noun}. I search for the words around it."
_CLOZE_MISS_BY_CLUE = "This does not say it. I search for the words around the gap."
_MISS = (
    "This does not say it. I search for {query} instead.",
    "Nothing here fills the gap. I try {query}.",
    "That search did not help: I still need {a_noun}. I look up {query}.",
)
_READ = (
    "The text says: {quote} So the missing {noun} is {answer}",
    "I read: {quote} So the {noun} is {answer}",
    "It says: {quote} So {answer} fills the gap.",
)
_READ_ONE_OF_SEVERAL = (
    "The text says: {quote} So the {ordinal} gap is {answer}",
    "I read: {quote} So {answer} fills the {ordinal} gap.",
)
_ASK_FIRST = (
    "The question needs more than one step. I first look up {query}.",
    "First I need to know about {query}.",
    "I begin with {query}.",
)
_ASK = ("I look up {query}.", "I search for {query}.")
_ASK_NEXT = ("So next I look up {query}.", "So I search for {query} next.", "Now I look up {query}.")
_ASK_AGAIN = (
    "This does not answer it. I search for {query} instead.",
    "That search did not help. I try {query}.",
)
_OPEN = (
    "This says too little. I open the article {title}.",
    "The article {title} may say more. I open it.",
    "I read on in {title}.",
)
_SAYS = ("The text says: {quote}", "I read: {quote}")
_ANSWER = ("So the answer is {answer}", "That gives the answer: {answer}")


class Speech:
    """Wordings in one style, drawn from `rng`.

    clue_words: words of a clue on each side of a mask. quote_words: words of a quotation."""

    def __init__(self, style: str, rng: np.random.Generator, clue_words: int, quote_words: int):
        if style not in STYLES[1:]:
            raise ValueError(f"style={style!r} is none of {STYLES[1:]}")
        self._brief, self._cloze = style == "brief", style == "cloze"
        self._rng, self._clue_words, self._quote_words = rng, clue_words, quote_words

    # --- masked passages ---------------------------------------------------------------------------------------------

    def plan(self, gaps: Sequence[Gap], remaining: Sequence[int], query: str, by_clue: bool = False) -> Draft:
        """Return what to say before a search for gap `remaining[0]` of `gaps`: what is missing, and the query.

        by_clue: the query is the clue of the gap."""
        if self._brief:
            return lambda share: "; ".join(self._brief_goal(gaps[i], share) for i in remaining) + "."
        gap = gaps[remaining[0]]
        if self._cloze:
            ordinal = f"{_ordinal(remaining[0], len(gaps))} " if len(gaps) > 1 else ""
            cloze = _CLOZE_GAP_BY_CLUE if by_clue else _CLOZE_GAP
            return lambda share: cloze.format(ordinal=ordinal, a_noun=gap.a_noun, query=query)
        if len(gaps) == 1:
            wording = self._one_of(_ONE_GAP)
            return lambda share: wording.format(clue=self._clue(gap, share), a_noun=gap.a_noun, query=query)
        wording, all_ahead = self._one_of(_ONE_OF_SEVERAL), len(remaining) == len(gaps)

        def draft(share: float) -> str:
            opening = f"There are {_NUMBERS[len(gaps)]} gaps. " if all_ahead and share == 1 else ""
            return opening + wording.format(
                ordinal=_ordinal(remaining[0], len(gaps)), clue=self._clue(gap, share), a_noun=gap.a_noun,
                rest=self._rest(gaps, remaining[1:], share), query=query,
            )  # fmt: skip

        return draft

    def again(self, gap: Gap, query: str, by_clue: bool = False) -> Draft:
        """Return what to say after a search that did not help: what is searched for instead. by_clue: as in `plan`."""
        if self._brief:
            return lambda share: f"Not found. {self._brief_goal(gap, share)}."
        if self._cloze and by_clue:
            return lambda share: _CLOZE_MISS_BY_CLUE
        wording = self._one_of(_MISS)
        return lambda share: wording.format(a_noun=gap.a_noun, query=query)

    def reading(self, gaps: Sequence[Gap], index: int, quote: Quote, answer: str) -> Draft:
        """Return the quotation that fills gap `index`, and what follows from it."""
        if self._cloze:
            return lambda share: _stopped(f"{clues.shortened(gaps[index].lead, share)}{answer}")
        if self._brief:
            return lambda share: _stopped(f'"{quote.around(self._quoted_words(share) // 2)}": {answer}')
        wording = self._one_of(_READ if len(gaps) == 1 else _READ_ONE_OF_SEVERAL)
        return lambda share: _stopped(
            wording.format(
                quote=_quoted(quote.around(self._quoted_words(share))),
                noun=gaps[index].noun,
                answer=answer,
                ordinal=_ordinal(index, len(gaps)),
            )  # fmt: skip
        )

    # --- questions and tool_warmup tasks -----------------------------------------------------------------------------

    def asking(self, query: str, steps: int, is_first: bool) -> Draft:
        """Return what to say before a search, for a question that takes `steps` searches.

        is_first: whether this search is the first of them."""
        if self._brief:
            return lambda share: f"{'First' if is_first and steps > 1 else 'Look up'}: {query}."
        wording = self._one_of(_ASK_NEXT if not is_first else _ASK_FIRST if steps > 1 else _ASK)
        return lambda share: wording.format(query=query)

    def asking_again(self, query: str) -> Draft:
        """Return what to say after a search that did not help: what is searched for instead."""
        if self._brief:
            return lambda share: f"Not found. Look up: {query}."
        wording = self._one_of(_ASK_AGAIN)
        return lambda share: wording.format(query=query)

    def opening(self, title: str) -> Draft:
        """Return what to say before a visit of an article that a search has found."""
        wording = "Read on: {title}." if self._brief or self._cloze else self._one_of(_OPEN)
        return lambda share: wording.format(title=title)

    def quoting(self, quote: Quote) -> Draft:
        """Return a quotation on the way to an answer."""
        wording = "{quote}" if self._brief else self._one_of(_SAYS)
        return lambda share: wording.format(quote=_quoted(quote.around(self._quoted_words(share))))

    def answering(self, answer: str) -> Draft:
        """Return what follows from the last quotation."""
        wording = "So: {answer}" if self._brief else self._one_of(_ANSWER)
        return lambda share: _stopped(wording.format(answer=answer))

    # --- parts -------------------------------------------------------------------------------------------------------

    def _one_of(self, wordings: Sequence[str]) -> str:
        return wordings[int(self._rng.integers(len(wordings)))]

    def _clue(self, gap: Gap, share: float) -> str:
        return gap.clue(max(_FEWEST_CLUE_WORDS, round(share * self._clue_words)))

    def _quoted_words(self, share: float) -> int:
        return max(_FEWEST_QUOTE_WORDS, round(share * self._quote_words))

    def _brief_goal(self, gap: Gap, share: float) -> str:
        return f'"{self._clue(gap, share)}": {gap.noun}'

    def _rest(self, gaps: Sequence[Gap], others: Sequence[int], share: float) -> str:
        """Return what is still to be found after the current gap, as a sentence and a space; '' if nothing is."""
        if not others:
            return ""
        if len(others) == 1 and share == 1:
            gap = gaps[others[0]]
            return f'Then I need {gap.a_noun} for "{gap.clue(_FEWEST_CLUE_WORDS)}". '
        nouns = Counter(gaps[i].noun for i in others)
        return f"Then I need {_listed([_counted(noun, count) for noun, count in nouns.items()])}. "


def joined(drafts: Sequence[Draft]) -> Draft:
    """Return a draft that says all drafts, one after the other."""
    return lambda share: " ".join(draft(share) for draft in drafts)


def _ordinal(index: int, count: int) -> str:
    return "last" if index == count - 1 and count > 2 else _ORDINALS[index]


def _counted(noun: str, count: int) -> str:
    """Return a noun with its number: 'a year', 'two years'. Words may follow the noun ('number of people')."""
    if count == 1:
        return with_article(noun)
    head, space, rest = noun.partition(" ")
    plural = _PLURALS.get(head, f"{head}s")
    return f"{_NUMBERS[count]} {plural}{space}{rest}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _quoted(text: str) -> str:
    return f'"{text}"' if text[-1] in ".!?" else f'"{text}".'


def _stopped(text: str) -> str:
    return text if text[-1] in ".!?" else f"{text}."
