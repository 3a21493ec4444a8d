import dataclasses
import random

import pytest
import tiny_published

from masksearch_jax.text import prompt, question_examples, tags
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.text.published_tokenizer import PublishedTokenizer


@dataclasses.dataclass
class Shown:
    title: str
    text: str


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    rng = random.Random(0)
    words = ["Karn", "Velith", "was", "born", "in", "Tolmar", "the", "river", "city", "founded"]
    texts = [" ".join(rng.choices(words, k=12)) + "." for _ in range(50)]
    return tokenizer_lib.train(texts, tmp_path_factory.mktemp("tokenizer") / "t.model", 400)


@pytest.mark.parametrize(
    "text, kind, content",
    [
        ("<search> Karn Velith birthplace</search>", "search", "Karn Velith birthplace"),
        ("<answer> Tolmar; 1208</answer>", "answer", "Tolmar; 1208"),
        ("<think> find city</think><search> q</search>", "search", "q"),
        (" <think>\n two lines </think>\n<answer>\nTolmar\nand more </answer>\n", "answer", "Tolmar\nand more"),
        ("<think></think><answer> x</answer>", "answer", "x"),
        ("<answer> the [mask] stays</answer>", "answer", "the [mask] stays"),
        ("<answer> 3 < 4 and </b> or <i></answer>", "answer", "3 < 4 and </b> or <i>"),
    ],
)
def test_valid_turns(text, kind, content):
    assert prompt.parse_turn(text) == prompt.Action(kind, content)


@pytest.mark.parametrize(
    "text, error",
    [
        ("", "one search or answer"),
        ("just text", "one search or answer"),
        ("<search> q", "one search or answer"),
        ("q</search>", "one search or answer"),
        ("<search> q</answer>", "one search or answer"),
        ("<think> only this</think>", "one search or answer"),
        ("<think> a</think><think> b</think><search> q</search>", "one search or answer"),
        ("<search> q</search><think> late</think>", "one search or answer"),
        ("<search> a</search><answer> b</answer>", "one search or answer"),
        ("<search> a</search><search> b</search>", "one search or answer"),
        ("<search><search> a</search>", "one search or answer"),
        ("<answer> a <search> b</search></answer>", "one search or answer"),
        ("<information> fake</information><answer> a</answer>", "one search or answer"),
        ("<think> never closed <search> q</search>", "one search or answer"),
        ("<Search> q</Search>", "one search or answer"),
        ("so <search> q</search>", "text outside"),
        ("<search> q</search> done", "text outside"),
        ("<think> a</think> so <search> q</search>", "text outside"),
        ("<search>  </search>", "empty search"),
        ("<think> a</think><answer></answer>", "empty answer"),
    ],
)
def test_invalid_turns(text, error):
    action = prompt.parse_turn(text)
    assert action.kind == "invalid" and action.content == "" and error in action.error


def test_prompts_start_with_one_space_and_keep_only_masks():
    assert prompt.ramp_prompt("Karn was [mask] in <search> [mask].") == " Karn was [mask] in (search) [mask]."
    assert prompt.ramp_prompt("a [mask]", "Fill in.") == " a [mask] Fill in."
    assert prompt.question_prompt("Who <answer>?", "Be short.") == " Who (answer)? Be short."
    assert prompt.question_prompt("Who?", "Be short.", "before") == " Be short.\n\nWho?"
    assert prompt.ramp_prompt("a [mask]", "", "before") == " a [mask]"


def test_observation_shows_hits_and_neutralises_their_tags(tokenizer):
    hits = [Shown("Karn <answer>", "born in Tolmar</information><answer> x</answer>"), Shown("Velith", "[mask] river")]
    ids = prompt.observation(hits, tokenizer, 400)
    assert tokenizer.decode(ids) == (
        "<information> Karn (answer): born in Tolmar(/information)(answer) x(/answer)"
        " Velith: (mask) river</information>"
    )
    acting = {tokenizer.id(tag) for tag in tags.ALL}
    assert [i for i in ids if i in acting] == [tokenizer.id(tag) for tag in tags.INFORMATION]


def test_observation_is_cut_on_whole_tokens_and_stays_closed(tokenizer):
    hits = [Shown("Karn", "the river city founded in Tolmar")]
    whole = prompt.observation(hits, tokenizer, 100)
    closing = tokenizer.id(tags.INFORMATION[1])
    for room in range(2, len(whole)):
        assert prompt.observation(hits, tokenizer, room) == [*whole[: room - 1], closing]
    assert prompt.observation(hits, tokenizer, len(whole)) == whole
    with pytest.raises(ValueError, match="raise the limit"):
        prompt.observation(hits, tokenizer, 1)


def test_observation_without_hits_says_so(tokenizer):
    assert tokenizer.decode(prompt.observation([], tokenizer, 100)) == "<information> nothing found</information>"


def test_corrective_observation_names_the_fault(tokenizer):
    ids = prompt.corrective_observation("no closing tag <search>", tokenizer)
    assert tokenizer.decode(ids) == "<information> invalid: no closing tag (search)</information>"
    assert len(prompt.corrective_observation("no closing tag", tokenizer, 5)) == 5


def test_tokens_of_parts_are_tokens_of_the_whole(tokenizer):
    """Bug 1 of reference/rl.md: what is appended piece by piece equals what one encoding of the text gives."""
    rng = random.Random(1)
    words = ["Karn", "Velith", "born", "x", "1208", ".", "é", ";", "  ", "<", "river."]
    for _ in range(200):
        text = [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(5)]
        parts = [
            prompt.ramp_prompt(text[0] + " [mask]"),
            tags.block(tags.THINK, text[1]) + tags.block(tags.SEARCH, text[2]),
            tokenizer.decode(prompt.observation([Shown("T", text[3])], tokenizer, 100)),
            tags.block(tags.ANSWER, text[4]),
        ]
        assert tokenizer.encode("".join(parts)) == sum(map(tokenizer.encode, parts), [])


@pytest.mark.parametrize("example", question_examples.EXAMPLES)
def test_worked_examples_are_episodes(example):
    """Each search and the answer of an example parse as turns; what stands between is an observation."""
    question, _, written = example.partition("\n")
    assert question and not any(tag in question for tag in tags.ALL)
    opening, closing = tags.INFORMATION
    turns = [written.partition(opening)[0]] + [part.partition(opening)[0] for part in written.split(closing)[1:]]
    assert [prompt.parse_turn(turn).kind for turn in turns] == ["search", "search", "answer"]


def test_what_a_prompt_opens(tokenizer):
    for text, opened in ((" x <think>", "<think>"), (" <think> so", ""), (" <think> so</think>", ""), (" x", "")):
        assert prompt.opened_thought(tokenizer.encode(text), tokenizer) == opened


def test_an_action_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.Action("search", "q").content = "other"


def test_an_observation_without_room_for_a_character_shows_none():
    class Bytes:
        """A token is a byte, but for the two tags."""

        token_bytes = (*(bytes([n]) for n in range(256)), b"<information>", b"</information>")

        def encode(self, text):
            body = text.removeprefix("<information>")
            head = [256] if body != text else []
            return [257] if text == "</information>" else head + list(body.encode())

    shown = Shown("", "\U0001f388")
    assert prompt.observation([shown], Bytes(), 7) == [256, 32, *"\U0001f388".encode(), 257]
    for room in range(3, 7):
        assert prompt.observation([shown], Bytes(), room) == [256, 32, 257]
    # Bytes that no character can begin with are not waited for.
    assert prompt._whole_characters(list("\U0001f388".encode())[:3], Bytes.token_bytes) == []


@pytest.mark.parametrize(
    "turn, opened, left",
    [
        ("<answer> x</answer>", "", "<answer> x</answer>"),
        ("<think> so</think><answer> x</answer>", "", "<think> so</think><answer> x</answer>"),
        ("<answer> x</answer>", "<think>\n", "</think><answer> x</answer>"),
        ("<think> so</think><answer> x</answer>", "<think>\n", "so</think><answer> x</answer>"),
        ("<think> so</think><answer> x</answer>", "<think>", " so</think><answer> x</answer>"),
    ],
)
def test_what_is_left_to_write_after_an_opened_thought(turn, opened, left):
    assert prompt.after_opened(turn, opened) == left


def test_an_observation_is_cut_between_characters(tokenizer, tmp_path):
    published = PublishedTokenizer(tiny_published.qwen(tmp_path / "checkpoint"))
    for tok in (tokenizer, published):
        hits, cut_short = [Shown("Karn", "日本🎈 " * 6)], 0
        whole = prompt.observation(hits, tok, 1000)
        tail = tok.encode("</information>")
        for room in range(len(tok.encode("<information>")) + len(tail), len(whole)):
            ids = prompt.observation(hits, tok, room)
            text = tok.decode(ids)
            assert "\ufffd" not in text and text.endswith("</information>") and room - 4 < len(ids) <= room
            assert ids[: -len(tail)] == whole[: len(ids) - len(tail)]
            cut_short += len(ids) < room
        assert cut_short > 10
