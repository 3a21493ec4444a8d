"""Whatever a policy may write and a search may return: no crash, no forged action, one reading of the answer.

MASKSEARCH_FUZZ_SECONDS=600 bash launch/test.sh -m fuzz -s -k episode
"""

import episodes
import numpy as np
import pytest
import tiny_published
from fuzzing import assert_grows_like_n_log_n, fuzz
from hypothesis import strategies as st

from masksearch_jax.agents import distillation
from masksearch_jax.evals import runner
from masksearch_jax.evals.report import episode_samples as shown_episodes
from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rl import rewards
from masksearch_jax.rollout import trajectory
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.text import prompt, tags, tokenizer
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

_CONTROL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<eos>", "<unk>", "<0x41>", "▁", "<s>"]
_SIGNS = ["<", "</", ">", "search", "answer>", " Oslo", "; ", " 1850", "\n", " ", "é", "日本", "."]
_PIECES = [*tags.ALL, *_SIGNS, *_CONTROL]
# Half characters, blank space of all kinds, what normalises to a tag, what terminals and XML choke on.
_BAD = ["\ud800", "\udfff", "\x00", "\u2028", "\u200b", "\ufeff", "＜search＞", "\u0338", "🎈", "\x1b[2J", "&lt;"]
_HOSTILE = [*_PIECES, *_BAD]
_WELL_FORMED = [
    "<think> where</think><search> Karn Velith</search>",
    "<search> Karn</search>\n",
    "<think> so</think><answer> Oslo; May 1850</answer>",
    "<answer> Oslo</answer>.",
]

text = st.lists(st.sampled_from(_HOSTILE) | st.text(max_size=4), max_size=25).map("".join)
hits = st.lists(st.builds(Hit, st.integers(-1, 9), st.integers(-1, 9), text, text, st.floats()), max_size=3)
# What a turn is spelled of: pieces of text, a token of the vocabulary by its place in it, or (None) an end token.
_item = st.sampled_from(_PIECES) | st.floats(0, 1, exclude_max=True) | st.none()
_noise = st.lists(_item, max_size=12)


@st.composite
def _action(draw):
    """A turn of the right form around whatever content, and what the model would go on with."""
    opening, closing = draw(st.sampled_from([tags.SEARCH, tags.ANSWER, tags.ANSWER]))
    thought = [tags.THINK[0], *draw(_noise), tags.THINK[1]] if draw(st.booleans()) else []
    content = draw(st.lists(st.sampled_from(_SIGNS), max_size=6) | _noise)
    return [*thought, opening, *content, closing + draw(st.sampled_from(["", ".", "\n", "</", "<search>", "é"]))]


turn = st.sampled_from(_WELL_FORMED).map(lambda one: [one]) | _action() | _noise
limits = st.just(EpisodeLimits(turns=4, turn_tokens=300, observation_tokens=300, total_tokens=4000)) | st.builds(
    EpisodeLimits,
    turns=st.integers(1, 4),
    turn_tokens=st.sampled_from([1, 5, 20, 200]),
    observation_tokens=st.sampled_from([40, 60, 300]),
    total_tokens=st.sampled_from([3, 20, 200, 2000]),
)


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    """Ours, where tags are tokens; a published one whose tokens close a tag and go on; one with special tags."""
    folder = tmp_path_factory.mktemp("fuzz")
    going_on = episodes.with_tokens(tiny_published.qwen(folder / "qwen"), episodes.GOING_ON)
    tuned = episodes.with_tokens(tiny_published.gemma(folder / "gemma"), tags.ALL, special=True)
    ours = tokenizer.train(tiny_published.TEXTS, folder / "t.model", 345)
    return [ours, PublishedTokenizer(going_on), PublishedTokenizer(tuned)]


def tokens(tok, turn):
    """The ids of a drawn turn."""
    ids = []
    for item in turn:
        if item is None:
            ids.append(tok.end_ids[0])
        else:
            ids += [int(item * tok.vocab_size)] if isinstance(item, float) else tok.encode(item)
    return ids


@fuzz(
    which=st.integers(0, 2),
    turns=st.lists(turn, min_size=1, max_size=5),
    found=st.lists(hits, min_size=1, max_size=3),
    limits=limits,
    forced=st.none() | text,
    examples=200,
)
def test_episode(toks, which, turns, found, limits, forced):
    tok, results = toks[which], iter(found * 4)
    forced = None if forced is None else forced.encode(errors="replace").decode()
    played = episodes.play(tok, [tokens(tok, one) for one in turns], lambda query: next(results), limits, forced)
    one = played.trajectory
    # --- the rules ---
    assert len(one.ids) <= max(limits.total_tokens, 2) and len(one.turns) <= max(limits.turns, 2)
    assert (one.stop == StopReason.ANSWER) == bool(one.answer) == (one.final_answer is not None)
    assert not any(tag in one.answer for tag in tags.ALL if tag != tags.MASK) and one.answer == one.answer.strip()
    for said in one.turns:
        assert said.text == tok.decode(one.ids[said.start : said.end])
        assert (said.action == "search") == bool(said.query) or forced is not None
        assert not any(tag in said.query for tag in tags.ALL if tag != tags.MASK)
    # --- what the environment wrote holds no tag but its own ---
    tag_ids = {i for tag in tags.ALL for i in tok.encode(tag)} if all(len(tok.encode(t)) == 1 for t in tags.ALL) else ()
    for block in played.appended:
        shown = tok.decode(block)
        inside = shown.partition(tags.INFORMATION[0])[2].rpartition(tags.INFORMATION[1])[0]
        assert not any(tag in inside for tag in tags.ALL), shown
        assert sum(id in tag_ids for id in block) <= 5  # a forced search has two tags more, and opens the answer
        assert not set(block) & {*tok.end_ids, tok.pad_id}
    # --- the readers agree ---
    (back,) = trajectory.from_bytes(trajectory.to_bytes({3: one})).values()
    assert back.turns == one.turns and back.answer == one.answer and np.array_equal(back.ids, one.ids)
    for task in (episodes.task(), episodes.task(("Oslo", "May 1850")), episodes.task(form="paragraph")):
        reward = rewards.score(one, task.answers, task.text, task.answer_form, rewards.RewardConfig(answer="recall"))
        row = runner.score_row(task, one)
        assert (reward.format, reward.answer) == (row.format, row.recall) and row.answer == one.answer
        ((reason, recall),) = distillation.judged([(task, one)], floor=0.5)
        assert (reason == "form") == (reward.format == 0.0)
        assert recall == (reward.answer if reward.format else 0.0)
        shown_episodes.episode(row, "x")


# --- Growth ----------------------------------------------------------------------------------------------------------

SHAPES = ["<think>", "</answer>", "[mask]", "<", "</", "<answer> x", "</search", " ", "\n", "a", "é", "< ", "\x00"]


def grown(piece, after=""):
    return lambda n: piece * (n // len(piece)) + after


@pytest.mark.parametrize("piece", SHAPES)
def test_reading_a_turn_grows_with_its_text(piece):
    assert_grows_like_n_log_n(prompt.parse_stopped_turn, grown(piece, "<answer> x</answer>"), largest=100_000)
    assert_grows_like_n_log_n(prompt.parse_turn, lambda n: f"<answer>{piece * (n // len(piece))}</answer>", 100_000)


@pytest.mark.parametrize("piece", SHAPES)
def test_showing_a_passage_grows_with_its_text(toks, piece):
    def show(text):
        for tok in toks:
            prompt.observation([Hit(1, 1, "Karn", text, 1.0)], tok, 200)

    assert_grows_like_n_log_n(show, grown(piece), largest=30_000)


@pytest.mark.parametrize("piece", ["x", "in ", "a; ", "\n", "in x in 1"])
def test_reading_spans_grows_with_the_answer(piece):
    task = episodes.task(("Oslo", "Norway", "May 1850", "Karn"), "paragraph")

    def read(text):
        before, _, after = task.text.partition("[mask]")
        answer_metrics.spans_of(f"{before}{text} in b in c in d.", "paragraph", task.text, 4, task.answers)
        answer_metrics.spans_of(text, "spans", task.text, 4, task.answers)

    assert_grows_like_n_log_n(read, grown(piece), largest=30_000)
