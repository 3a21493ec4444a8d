"""An oracle teacher: it knows the answers, plans one sub-goal for each mask, queries the real index and reads what
comes back.

In: tasks and a searcher. Out: demonstrations as token ids, and counts of what was rejected. It knows the gold spans
but never writes one into a query, and it keeps an episode only if the passages that it retrieved contain every gold
span (rejection sampling), so that what it teaches can be done by reading.

How good its queries are is a setting, `styles`, a probability for each of three ways to write a query about the
subject S of a mask, which is the article's title where the passage names it, or else the name next to the mask: of a
passage from the middle of an article nobody could know the title.
  name     S alone
  own      S and the content word nearest to the mask, in the passage's own wording
  insight  S and the word with which *other* articles state such facts (learned from the index, see Associations)
A teacher that mostly writes the first two is weak on purpose: it leaves room in the policy's greedy mode for RL.
Left out: questions (agents/questions.py), and an LLM. The planner, rewriter and observer of the paper come behind the
same records.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from masksearch_jax.agents import evidence, masked_text
from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.text import answers, prompt, tags
from masksearch_jax.text.tokenizer import Tokenizer

STYLES = ("name", "own", "insight")


@dataclasses.dataclass(frozen=True)
class OracleConfig:
    """styles: probability of each query style for a first query. retry: share of misses after which the oracle
    searches again, with a style drawn anew among those it has not tried for that mask. attempts: most searches for one
    mask. evidence: how many words before each mask it thinks of, before it searches and again, with the answer, before
    it answers, so that it reads on where they lead; 0 for no such thought. evidence_match: so many of them have to lead
    to the answer in what was found, or there is no demonstration. hits: passages read for each search.
    observation_tokens, total_tokens: as the episode limits of the rollout."""

    styles: dict[str, float]
    retry: float
    attempts: int
    evidence: int
    evidence_match: int
    hits: int
    observation_tokens: int
    total_tokens: int
    seed: int

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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Either a demonstration, or the reason why there is none: 'miss', 'too_long', 'no_query' or 'no_evidence'."""

    task_id: str
    demonstration: records.Demonstration | None
    rejected: str = ""


class Associations:
    """Which word other articles use for a fact that a sentence states in its own words.

    Counted over training tasks: for each mask, the content words of its sentence against the content words of the
    sentences in which retrieved passages state the answer. `best` scores a word w for own words o by
    sum_o P(w | o) log(P(w | o) / P(w)), so words that stand everywhere score nothing.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._own: collections.Counter[str] = collections.Counter()
        self._target: collections.Counter[str] = collections.Counter()
        self._total = 0

    def add(self, own: Sequence[str], target: Sequence[str]) -> None:
        self._total += 1
        self._target.update(set(target))
        for word in set(own):
            self._own[word] += 1
            self._pairs[word].update(set(target))

    def best(self, own: Sequence[str]) -> str:
        """The best word, '' if nothing is known of any own word. Ties go to the word that sorts first."""
        scores: collections.Counter[str] = collections.Counter()
        for word in set(own):
            for target, together in self._pairs.get(word, {}).items():
                share = together / self._own[word]
                scores[target] += share * math.log(share * self._total / self._target[target])
        return min(scores, key=lambda w: (-scores[w], w)) if scores else ""


def fit_associations(tasks: Sequence[records.Task], searcher: interface.Searcher, k: int = 3) -> Associations:
    """Learns Associations from training tasks: one search for subject and answer together finds where the fact
    stands."""
    found = Associations()
    probes = [(task, i) for task in tasks for i in range(task.masks)]
    queries = [interface.Query(f"{t.title} {t.answers[i][0]}", t.passage_id, t.article_id) for t, i in probes]
    for (task, i), hits in zip(probes, searcher.search(queries, k), strict=True):
        own = masked_text.own_words(task.text, i)
        for hit in hits:
            if answers.contains(f"{hit.title} {hit.text}", task.answers[i]):
                for sentence in masked_text.sentences(hit.text):
                    if task.title in sentence:
                        found.add(own, masked_text.content_words(sentence))
    return found


def write_query(task: records.Task, index: int, style: str, associations: Associations) -> str:
    """A query about mask `index`, or '' if this style has nothing to say. Never contains the answer."""
    sentence, _ = masked_text.mask_sentence(task.text, index)
    subject = [masked_text.subject_of(task.text, task.title, index)]
    visible = [n for n in masked_text.names(sentence.replace(tags.MASK, " . ")) if n not in subject[0]]
    if not subject[0]:
        return ""
    if task.span_kinds[index] in ("date", "number") and visible:
        subject.append(visible[0])  # a number says nothing about whom it concerns: name both parties
    own = masked_text.own_words(task.text, index)
    keyword = ""
    if style == "own" and own:
        keyword = own[0]
    elif style == "insight":
        keyword = associations.best(own)
    if style != "name" and not keyword:
        return ""
    query = " ".join([*subject, keyword]).strip()
    return "" if answers.contains(query, task.answers[index]) else query


class Episode(Protocol):
    """What differs by kind of task: which part of it is worked on, and how an observation is judged."""

    task: records.Task
    rejected: str  # the reason, '' while there is none

    @property
    def solved(self) -> bool: ...

    def next_query(self) -> str:
        """Writes the next search turn and returns its query; '' if none can be written."""

    def read(self, hits: Sequence[interface.Hit]) -> None:
        """Appends the observation and decides: the next part, another query for this one, or give up."""

    def finish(self) -> Outcome: ...


class Transcript:
    """The tokens of one task so far, and the styles tried for the part of it that is worked on."""

    def __init__(self, task: records.Task, cfg: OracleConfig, tokenizer: Tokenizer):
        self.task, self._cfg, self._tokenizer = task, cfg, tokenizer
        # Keyed by task, so that neither order nor the set of tasks changes what is drawn for one of them.
        digest = np.frombuffer(task.id.encode(), np.uint8).astype(np.uint32).tolist()
        self._rng = np.random.default_rng([cfg.seed, *digest])
        self._ids, self._trainable = list(task.prompt), [0] * len(task.prompt)
        self._opened = prompt.opened_thought(task.prompt, tokenizer)  # for the first turn
        self._tried, self._thought, self.searches, self.rejected = [], "", 0, ""

    def search(self, thought: str, write: Callable[[str], str]) -> str:
        """Writes a search turn with the query that `write` makes in a style drawn among those not tried yet; returns
        it, or '' and the reason of the rejection when no style has one."""
        open_styles = [s for s in STYLES if s not in self._tried and self._cfg.styles.get(s, 0) > 0]
        while open_styles:
            weights = np.array([self._cfg.styles[s] for s in open_styles])
            style = open_styles[int(self._rng.choice(len(open_styles), p=weights / weights.sum()))]
            query = write(style)
            self._tried.append(style)
            open_styles.remove(style)
            if query:
                self._write(tags.block(tags.THINK, thought) + tags.block(tags.SEARCH, query))
                self.searches += 1
                return query
        self.rejected = self.rejected or ("miss" if self.searches else "no_query")
        return ""

    def observe(self, hits: Sequence[interface.Hit]) -> str:
        """Appends the observation and returns it as the policy would see it."""
        observation = prompt.observation(hits, self._tokenizer, self._cfg.observation_tokens)
        self._ids += observation
        self._trainable += [0] * len(observation)
        return self._tokenizer.decode(observation)

    def note(self, observation: str, answer: str, before: str) -> int:
        """Adds an answer and the words that lead to it to the thought before the last turn's answer (see OracleConfig);
        returns how many of them lead to it in the observation too."""
        if not self._cfg.evidence:
            return 0
        found, alike = evidence.quote(observation.removeprefix(tags.INFORMATION[0]), answer, before, self._cfg.evidence)
        self._thought = f"{tags.SPAN_SEPARATOR} ".join(filter(None, [self._thought, found]))
        return alike

    def found(self) -> None:
        """The part is done: the next one may take every style again."""
        self._tried = []

    def missed(self) -> None:
        """Rejects, unless the part may be searched again."""
        if len(self._tried) >= self._cfg.attempts or self._rng.random() >= self._cfg.retry:
            self.rejected = "miss"

    def finish(self) -> Outcome:
        """The demonstration with the gold answer as its last turn, unless the task was rejected or is too long."""
        if not self.rejected:
            thought = tags.block(tags.THINK, self._thought) if self._thought else ""
            self._write(thought + tags.block(tags.ANSWER, answer_text(self.task)))
            if len(self._ids) > self._cfg.total_tokens:
                self.rejected = "too_long"
        if self.rejected:
            return Outcome(self.task.id, None, self.rejected)
        return Outcome(
            self.task.id,
            records.Demonstration(
                id=f"oracle.{self.task.id}", task_id=self.task.id, masks=self.task.masks, ids=self._ids,
                trainable=self._trainable, searches=self.searches, recall=1.0,
            ),
        )  # fmt: skip

    def _write(self, text: str) -> None:
        ids = self._tokenizer.encode(prompt.after_opened(text, self._opened))
        self._opened = ""
        self._ids += ids
        self._trainable += [1] * len(ids)


class _Masks(Transcript):
    """A masked passage on its way, one mask after the other."""

    def __init__(self, task: records.Task, cfg: OracleConfig, tokenizer: Tokenizer, associations: Associations):
        super().__init__(task, cfg, tokenizer)
        self._associations, self._mask = associations, 0

    @property
    def solved(self) -> bool:
        return self._mask == self.task.masks

    def next_query(self) -> str:
        thought = masked_text.plan(self.task.text, self._mask, self.task.masks, self._cfg.evidence)
        return self.search(thought, lambda style: write_query(self.task, self._mask, style, self._associations))

    def read(self, hits: Sequence[interface.Hit]) -> None:
        observation = self.observe(hits)
        if answers.contains(observation, self.task.answers[self._mask]):
            before = self.task.text[: masked_text.mask_place(self.task.text, self._mask)]
            if self.note(observation, self.task.answers[self._mask][0], before) < self._cfg.evidence_match:
                self.rejected = "no_evidence"
            self._mask += 1
            self.found()
        else:
            self.missed()


def answer_text(task: records.Task) -> str:
    """The gold answer in the task's answer form: filled spans joined by '; ', or the whole paragraph."""
    if task.answer_form == "paragraph":
        return task.paragraph
    return f"{tags.SPAN_SEPARATOR} ".join(golds[0] for golds in task.answers)


def synthesize(
    tasks: Sequence[records.Task],
    searcher: interface.Searcher,
    tokenizer: Tokenizer,
    associations: Associations,
    cfg: OracleConfig,
) -> Iterator[Outcome]:
    """Runs the oracle on all tasks at once, one round of searches after the other; yields outcomes in task order."""
    return run([_Masks(task, cfg, tokenizer, associations) for task in tasks], searcher, cfg.hits)


def run(episodes: Sequence[Episode], searcher: interface.Searcher, hits: int) -> Iterator[Outcome]:
    """Runs all episodes at once, one round of searches after the other; yields their outcomes in order."""
    active = episodes
    while active:
        asking = [(episode, query) for episode in active if (query := episode.next_query())]
        queries = [interface.Query(query, e.task.passage_id, e.task.article_id) for e, query in asking]
        for (episode, _), found in zip(asking, searcher.search(queries, hits), strict=True):
            episode.read(found)
        active = [e for e, _ in asking if not e.solved and not e.rejected]
    for episode in episodes:
        yield episode.finish()


def hit_rate(
    tasks: Sequence[records.Task], searcher: interface.Searcher, associations: Associations, style: str, k: int
) -> tuple[int, int]:
    """(masks whose answer stands in the top-k passages of the oracle's query in this style, masks), source excluded."""
    probes = [(t, i, write_query(t, i, style, associations)) for t in tasks for i in range(t.masks)]
    # A style that finds no word falls back to the bare name, as the oracle itself would.
    queries = [
        interface.Query(q or masked_text.subject_of(t.text, t.title, i), t.passage_id, t.article_id)
        for t, i, q in probes
    ]
    found = sum(
        any(answers.contains(hit.text, t.answers[i]) for hit in hits)
        for (t, i, _), hits in zip(probes, searcher.search(queries, k), strict=True)
    )
    return found, len(probes)
