"""The rule-based teacher of masked passages. It knows the answers, searches the real index and reads what comes back.

In: tasks and a searcher. Out: demonstrations as token ids, or the reason why there is none. The teacher plans one
sub-goal for each mask. It knows the gold spans but never writes one into a query. It keeps an episode only if the
passages that it retrieved contain every gold span (rejection sampling), so that what it teaches can be done by reading.

The setting `styles` decides how good its queries are. It holds a probability for each of four ways to write a query
for a mask. Three are about the subject S of the mask. S is the article's title if the passage names it, or else the
name next to the mask, because nobody could know the title of a passage from the middle of an article.
  title       S alone
  passage     S and the content word nearest to the mask, in the passage's own wording
  associated  S and the word with which *other* articles state such facts (learned from the index, see Associations)
  clue        the words around the mask (text/clues.py): what finds an article that says the same about another subject
Where episodes have the tool `visit` (TeacherConfig.tools), a search that did not help is followed by a visit of the
first article that it found and that was not visited yet.
A teacher that mostly writes the first two is weak on purpose: it leaves room for RL to improve the policy's greedy
mode. Its thoughts are single words, for a policy that can only copy, or sentences, for a language model (`wording`,
teachers/thoughts.py).
Left out: questions (teachers/question_teacher.py), and an LLM. The paper's planner, rewriter and observer (agents/)
make the same records.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout.request import query_of
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.teachers import evidence, gaps, mask_context, quotes, thoughts
from masksearch_jax.teachers.query_writers import Associations, writer_of
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.text.tool_names import VISIT

STYLES = ("title", "passage", "associated", "clue")  # in the order in which a style is drawn
# The shares of its clues and quotations that a turn keeps, tried one after the other until it fits.
_SHARES = (1.0, 0.7, 0.4, 0.2)


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Settings of a rule-based teacher.

    styles: probability of each query style for a first query. retry: share of misses after which the teacher searches
    again, with a style drawn from those not yet tried for that mask. attempts: most searches for one mask. evidence:
    how many words before each mask a thought holds, before a search and again, with the answer, before the final
    answer, so that the policy learns to read on from these words; 0 for no such thought. evidence_match: how many of
    them have to precede the answer in what was found, or there is no demonstration. hits: passages read for each
    search. observation_tokens, total_tokens: as the episode limits of the rollout.

    wording: 'words', or a style of teachers/thoughts.py. Such a style takes its queries from `write_title_query`; it
    reads the settings that follow, and neither evidence nor evidence_match. clue_words: words of a clue on each side of
    a mask. quote_words: words of a quotation. shared_words: how many words a quotation has to share with the sentence
    of its mask, not counting the article's title, or there is no demonstration. turn_tokens: as the episode limit, 0
    for none; a turn is shortened to it, or there is no demonstration. tools: the names of an episode's tools, of which
    the teacher uses search and visit."""

    styles: dict[str, float]
    retry: float
    attempts: int
    evidence: int
    evidence_match: int
    hits: int
    observation_tokens: int
    total_tokens: int
    seed: int
    wording: str = "words"
    clue_words: int = 4
    quote_words: int = 20
    shared_words: int = 2
    turn_tokens: int = 0
    tools: tuple[str, ...] = tags.ONE_TOOL

    def __post_init__(self):
        unknown = set(self.styles) - set(STYLES)
        if unknown or not math.isclose(sum(self.styles.values()), 1.0, abs_tol=1e-6):
            raise ValueError(
                f"synthesize.styles={dict(self.styles)}: probabilities over {STYLES} that add up to 1 are needed"
            )
        if not 0 <= self.evidence_match <= self.evidence:
            raise ValueError(
                f"synthesize.evidence={self.evidence}, evidence_match={self.evidence_match}: numbers of words are 0 or "
                "more, and no more can match than are quoted"
            )
        if self.wording not in thoughts.STYLES:
            raise ValueError(f"synthesize.wording={self.wording!r} is none of {thoughts.STYLES}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A demonstration, or the reason why there is none.

    rejected: 'miss', 'too_long', 'no_query', 'no_evidence', 'no_articles' (a question that says its answer and rests on
    no known article), or with thoughts in sentences 'long_turn' (over the limit of a turn) or 'leak' (a turn says an
    answer that was not read yet)."""

    task_id: str
    demonstration: records.Demonstration | None
    rejected: str = ""


class Episode(Protocol):
    """What differs between kinds of tasks: which part of a task is worked on, and how an observation is judged."""

    task: records.Task
    rejected: str  # the reason, '' while there is none
    tool: str  # that the last query is for
    found: list[interface.Hit]  # what all queries have found so far

    @property
    def solved(self) -> bool: ...

    def next_query(self) -> str:
        """Write the next search turn and return its query; '' if none can be written."""

    def read(self, hits: Sequence[interface.Hit]) -> None:
        """Append the observation and decide: go on to the next part, query again for this one, or give up."""

    def finish(self) -> Outcome: ...


class Transcript:
    """The tokens of one task so far, and the query styles tried for the part of it that is worked on."""

    def __init__(self, task: records.Task, cfg: TeacherConfig, tokenizer: Tokenizer):
        self.task, self._cfg, self._tokenizer = task, cfg, tokenizer
        # Keyed by task, so that the draws for a task depend neither on the order nor on the set of tasks.
        digest = np.frombuffer(task.id.encode(), np.uint8).astype(np.uint32).tolist()
        self._rng = np.random.default_rng([cfg.seed, *digest])
        self._ids, self._trainable = list(task.prompt), [0] * len(task.prompt)
        self._opened = prompt.opened_thought(task.prompt, tokenizer)  # for the first turn
        self._tried: list[str] = []
        self._thought, self.searches, self.rejected = "", 0, ""
        self.tool = "search"
        self.found: list[interface.Hit] = []
        self._visit = ""  # the title of an article that is visited next
        self._visited: set[str] = set()
        # Wordings have a random generator of their own, so that they do not change the draws of query styles.
        self._said: list[thoughts.Draft] = []
        self._asked: set[str] = set()
        self._known = task.text
        self._speech: thoughts.Speech | None = None
        if cfg.wording != "words":
            rng = np.random.default_rng([cfg.seed, *digest, 1])
            self._speech = thoughts.Speech(cfg.wording, rng, cfg.clue_words, cfg.quote_words)

    @property
    def speech(self) -> thoughts.Speech:
        """The wordings of a teacher whose `wording` is not 'words'."""
        assert self._speech is not None
        return self._speech

    def search(self, think: Callable[[str, str], thoughts.Draft], write: Callable[[str], str]) -> str:
        """Write a search turn and return its query.

        write: style -> query; the style is drawn from those not tried yet. think: (query, style) -> the thought before
        it. If no style has a query, `rejected` is set to the reason and the result is ''. If an article is to be
        visited first (`open_article`), the turn is that visit, and its title is returned."""
        if self._visit:
            return self._read_on(think)
        self.tool = "search"
        open_styles = [s for s in STYLES if s not in self._tried and self._cfg.styles.get(s, 0) > 0]
        while open_styles:
            weights = np.array([self._cfg.styles[s] for s in open_styles])
            style = open_styles[int(self._rng.choice(len(open_styles), p=weights / weights.sum()))]
            query = write(style)
            if self._speech and query in self._asked:
                query = ""  # its results were read already
            self._tried.append(style)
            open_styles.remove(style)
            if query:
                self._asked.add(query)
                self._turn(think(query, style), tags.block(tags.SEARCH, query))
                self.searches += 1
                return "" if self.rejected else query
        self.rejected = self.rejected or ("miss" if self.searches else "no_query")
        return ""

    def _read_on(self, think: Callable[[str, str], thoughts.Draft]) -> str:
        """Write the visit of the article that `open_article` named, and return its title."""
        title, self._visit, self.tool = self._visit, "", VISIT
        self._visited.add(title)
        thought = thoughts.joined([*self._said, self._speech.opening(title)]) if self._speech else think(title, "")
        self._turn(thought, tags.block(tags.tool_tags(VISIT), title))
        return "" if self.rejected else title

    def open_article(self, hits: Sequence[interface.Hit]) -> bool:
        """Let the next turn visit the article of the first of these hits that was not visited, and return True.

        Returns False if there is none, or no such tool, or if `hits` came from a visit.
        """
        if VISIT not in self._cfg.tools or self.tool == VISIT:
            return False
        titles = [tags.neutralise(hit.title, self._cfg.tools).strip() for hit in hits]
        self._visit = next((title for title in titles if title and title not in self._visited), "")
        return bool(self._visit)

    def observe(self, hits: Sequence[interface.Hit]) -> str:
        """Append the observation and return it as the policy would see it."""
        self.found += hits
        observation = prompt.observation(hits, self._tokenizer, self._cfg.observation_tokens, self._cfg.tools)
        self._ids += observation
        self._trainable += [0] * len(observation)
        shown = self._tokenizer.decode(observation)
        self._known += f" {shown}"
        return shown

    def note(self, observation: str, answer: str, before: str) -> int:
        """Add an answer and the words before its mask to the thought of the last turn (see TeacherConfig.evidence).

        Returns how many of these words precede the answer in the observation too."""
        if not self._cfg.evidence:
            return 0
        found, alike = evidence.quote(observation.removeprefix(tags.INFORMATION[0]), answer, before, self._cfg.evidence)
        self._thought = f"{tags.SPAN_SEPARATOR} ".join(filter(None, [self._thought, found]))
        return alike

    def close_part(self) -> None:
        """Close the current part, so that the next one may use every style, and visit every article, again."""
        self._tried = []
        self._visited = set()

    def missed(self, hits: Sequence[interface.Hit]) -> None:
        """Reject the task, unless an article of these hits can be visited, or the current part searched again."""
        if self.open_article(hits):
            return
        if len(self._tried) >= self._cfg.attempts or self._rng.random() >= self._cfg.retry:
            self.rejected = "miss"

    def finish(self) -> Outcome:
        """Return the demonstration with the gold answer as its last turn, or why the task was rejected."""
        if not self.rejected:
            self._turn(self.last_thought(), tags.block(tags.ANSWER, answer_text(self.task)))
            if not self.rejected and len(self._ids) > self._cfg.total_tokens:
                self.rejected = "too_long"
        if self.rejected:
            return Outcome(self.task.id, None, self.rejected)
        return Outcome(
            self.task.id,
            records.Demonstration(
                id=f"rules.{self.task.id}", task_id=self.task.id, masks=self.task.masks, ids=self._ids,
                trainable=self._trainable, searches=self.searches, recall=1.0,
            ),
        )  # fmt: skip

    def last_thought(self) -> thoughts.Draft | None:
        """Return the thought before the answer, None for none."""
        if self._said:
            return thoughts.joined(self._said)
        return (lambda share: self._thought) if self._thought else None

    def hidden(self) -> list[list[str]]:
        """Return the accepted strings of each answer that was not read yet, which no sentence may say."""
        return []

    def _turn(self, draft: thoughts.Draft | None, action: str) -> None:
        """Append a turn. A turn in sentences is shortened to fit the limit of a turn, or the task is rejected."""
        for share in _SHARES if self._speech else (1.0,):
            text = (tags.block(tags.THINK, draft(share)) if draft else "") + action
            ids = self._tokenizer.encode(prompt.after_opened(text, self._opened))
            if not self._cfg.turn_tokens or len(ids) <= self._cfg.turn_tokens:
                break
        else:
            self.rejected = "long_turn"
        if self._speech and any(self._leaks(text, golds) for golds in self.hidden()):
            self.rejected = "leak"
        self._said, self._opened = [], ""
        self._ids += ids
        self._trainable += [1] * len(ids)

    def _leaks(self, said: str, golds: Sequence[str]) -> bool:
        """Return True if a turn says an answer that neither the task nor an observation has said."""
        return answer_metrics.contains(said, golds) and not answer_metrics.contains(self._known, golds)


class _Masks(Transcript):
    """A masked passage in progress, one mask after the other."""

    def __init__(self, task: records.Task, cfg: TeacherConfig, tokenizer: Tokenizer, associations: Associations):
        super().__init__(task, cfg, tokenizer)
        self._associations, self._open, self._failed = associations, list(range(task.masks)), False
        if self._speech:
            spans = enumerate(zip(task.span_kinds, task.answers, strict=True))
            self._gaps = [gaps.gap_of(task.text, i, kind, golds[0], task.title) for i, (kind, golds) in spans]

    @property
    def solved(self) -> bool:
        return not self._open

    def next_query(self) -> str:
        mask, write = self._open[0], writer_of(self._cfg.wording)
        return self.search(self._think, lambda style: write(self.task, mask, style, self._associations))

    def read(self, hits: Sequence[interface.Hit]) -> None:
        observation, mask = self.observe(hits), self._open[0]
        if self._speech:
            self._read_aloud(observation, hits)
        elif answer_metrics.contains(observation, self.task.answers[mask]):
            before = self.task.text[: mask_context.mask_place(self.task.text, mask)]
            if self.note(observation, self.task.answers[mask][0], before) < self._cfg.evidence_match:
                self.rejected = "no_evidence"
            self._open.pop(0)
            self.close_part()
        else:
            self.missed(hits)

    def hidden(self) -> list[list[str]]:
        return [self.task.answers[mask] for mask in self._open]

    def _think(self, query: str, style: str) -> thoughts.Draft:
        if not self._speech:
            thought = mask_context.plan(self.task.text, self._open[0], self.task.masks, self._cfg.evidence)
            return lambda share: thought
        if self._failed:
            said = self.speech.again(self._gaps[self._open[0]], query, style == "clue")
        else:
            said = self.speech.plan(self._gaps, self._open, query, style == "clue")
        return thoughts.joined([*self._said, said])

    def _read_aloud(self, observation: str, hits: Sequence[interface.Hit]) -> None:
        """Quote what the observation states about the mask that was asked for, and about every other open mask."""
        asked, read = self._open[0], []
        for mask in self._open:
            golds, gap = self.task.answers[mask], self._gaps[mask]
            if not answer_metrics.contains(observation, golds):
                continue
            about, titles = f"{gap.before} {gap.after}", [hit.title for hit in hits]
            quote = quotes.find(observation, titles, golds, about, self.task.title)
            if quote and quote.shared >= self._cfg.shared_words:
                self._said.append(self.speech.reading(self._gaps, mask, quote, golds[0]))
                read.append(mask)
            elif mask == asked:
                self.rejected = "no_evidence"
        self._open = [mask for mask in self._open if mask not in read]
        self._failed = asked not in read
        if not self._failed:
            self.close_part()
        elif not self.rejected:
            self.missed(hits)


def answer_text(task: records.Task) -> str:
    """Return the gold answer in the task's answer form: filled spans joined by '; ', or the whole paragraph."""
    if task.answer_form == "paragraph":
        return task.paragraph
    return f"{tags.SPAN_SEPARATOR} ".join(golds[0] for golds in task.answers)


def synthesize(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: Associations,
    cfg: TeacherConfig,
) -> Iterator[Outcome]:
    """Run the teacher on all tasks at once, one round of searches after the other; yield outcomes in task order."""
    return run([_Masks(task, cfg, tokenizer, associations) for task in tasks], searcher, cfg.hits)


def run(episodes: Sequence[Episode], searcher: interface.Searcher, hits: int) -> Iterator[Outcome]:
    """Run all episodes at once, one round of searches after the other; yield their outcomes in order."""
    active = episodes
    while active:
        asking = [(episode, query) for episode in active if (query := episode.next_query())]
        queries = [query_of(e.task, query, e.tool, () if e.tool == "search" else tuple(e.found)) for e, query in asking]
        for (episode, _), found in zip(asking, searcher.search(queries, hits), strict=True):
            episode.read(found)
        active = [e for e, _ in asking if not e.solved and not e.rejected]
    for episode in episodes:
        yield episode.finish()
