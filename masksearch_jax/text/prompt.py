"""What the policy reads and writes, as text and tokens: prompts, observations, and the strict parser of a turn.

One turn of the policy is an optional `<think> ...</think>` and then exactly one `<search> query</search>` or
`<answer> ...</answer>`. Where an episode has further tools, each is called by tags of its own. The environment answers
a call with `<information> title: text title: text</information>` and an invalid turn with an information block that
names the fault. Blocks touch each other, and every text starts with one space after its opening tag (text/tags.py), so
that tokenising the parts equals tokenising the whole.

A chat template may have opened the thought of the first turn already: its prompts end in `<think>` and a line end.
This end of the prompt is then part of the turn's text, and whoever writes the turn continues from it.

Enters: passages, questions, hits, decoded turns. Leaves: text, token ids, actions. Left out: limits and turns
(rollout/episode.py) and rewards (rl/).
"""

import codecs
import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Protocol

from masksearch_jax.text import clues, instructions, stop_automaton, tags

# Short on purpose: with a small vocabulary each word costs several tokens of the episode's budget.
NOTHING_FOUND = "nothing found"
INVALID = "invalid:"

_TAIL = 24  # tokens that hold an opening tag and the whitespace after it, even with one byte per token


class Encoder(Protocol):
    """The part of text.tokenizer_protocol.Tokenizer that writes."""

    @property
    def token_bytes(self) -> Sequence[bytes]: ...

    def encode(self, text: str) -> list[int]: ...


class Decoder(Protocol):
    """The part of text.tokenizer_protocol.Tokenizer that reads."""

    def decode(self, ids: Sequence[int]) -> str: ...


class TitledText(Protocol):
    """The part of retrieval.interface.Hit that is shown to the policy."""

    @property
    def title(self) -> str: ...

    @property
    def text(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Action:
    """What a turn does.

    kind: the name of a tool ('search'), 'answer' or 'invalid'. content: the query or the answer, stripped. error: why
    the turn is invalid, '' otherwise."""

    kind: str
    content: str = ""
    error: str = ""


def ramp_prompt(masked_text: str, instruction: str = "", place: str = "after") -> str:
    """Return the prompt of a RAMP task: one space, then the masked passage with the instruction, if there is one.

    place: 'after' or 'before', where the instruction stands (text/instructions.py). Masks survive; any other tag that
    the passage happens to contain is neutralised.
    """
    body = tags.neutralise_all_but_masks(masked_text)
    return f" {placed(body, clues.filled_in(instruction, body), place)}"


def question_prompt(question: str, instruction: str = "", place: str = "after") -> str:
    """Return the prompt of a question: one space, then the question with the instruction, as in `ramp_prompt`."""
    body = tags.neutralise(question)
    return f" {placed(body, clues.filled_in(instruction, f'{body} {clues.asked(instruction)}'), place)}"


def placed(body: str, instruction: str, place: str) -> str:
    """Return a text with the instruction after it or before it."""
    before, after = instructions.around(instruction, place)
    return f"{before}{body}{after}"


def opened_thought(prompt_ids: Sequence[int], tokenizer: Decoder) -> str:
    """Return the end of a prompt that has opened a thought for the policy ('<think>' and a line end).

    Returns '' for any other prompt. prompt_ids: in the tokenizer's own vocabulary. A task's text never opens a thought,
    because its tags are neutralised.
    """
    _, opening, after = tokenizer.decode(list(prompt_ids[-_TAIL:])).rpartition(tags.THINK[0])
    return "" if not opening or after.strip() else opening + after


def after_opened(turn: str, opened: str) -> str:
    """Return what is left to write of a turn after a prompt that ends in `opened` (`opened_thought`).

    A turn without a thought first closes the one that was opened.
    """
    if not opened:
        return turn
    opening, closing = tags.THINK
    if not turn.startswith(opening):
        return closing + turn
    rest = turn[len(opening) :]
    return rest.removeprefix(" ") if opened[-1].isspace() else rest


def observation(
    hits: Sequence[TitledText], tokenizer: Encoder, max_tokens: int, tools: tuple[str, ...] = tags.ONE_TOOL
) -> list[int]:
    """Return the ids of the information block that shows `hits`, best first.

    Tags inside titles and texts are neutralised, those of all `tools` included. The block is cut between whole tokens
    and characters to at most `max_tokens`, including its closing tag, which is never cut. Raises ValueError if not even
    the tags fit.
    """
    plain = functools.partial(tags.neutralise, tools=tools)
    titles = (f" {plain(hit.title)}:" if hit.title.strip() else "" for hit in hits)  # some servers send none
    shown = "".join(f"{title} {plain(hit.text)}" for title, hit in zip(titles, hits, strict=True))
    return _information(shown or f" {NOTHING_FOUND}", tokenizer, max_tokens)


def corrective_observation(error: str, tokenizer: Encoder, max_tokens: int | None = None) -> list[int]:
    """Return the ids of the information block that tells the policy why its turn was invalid."""
    return _information(f" {INVALID} {tags.neutralise(error)}", tokenizer, max_tokens)


def parse_turn(text: str, tools: tuple[str, ...] = tags.ONE_TOOL) -> Action:
    """Return the action of one decoded turn; anything but the exact form is 'invalid', with a reason.

    Whitespace around blocks is allowed, text is not. The content may hold the mask, but no other tag.
    """
    pattern, actions = _grammar(tools)
    parts = pattern.split(text)
    found, between = parts[1::2], parts[0::2]
    thought = 2 if tuple(found[:2]) == tags.THINK else 0
    kind = actions.get(tuple(found[thought:]))
    if kind is None:
        return Action("invalid", error=f"one {', '.join(tools)} or answer expected")
    # between[i] follows tag i - 1: only the text right after an opening tag is inside a block.
    if any(between[i].strip() for i in range(0, len(between), 2)):
        return Action("invalid", error="text outside the tags")
    content = between[thought + 1].strip()
    if not content:
        return Action("invalid", error=f"empty {kind}")
    return Action(kind, content)


def parse_stopped_turn(text: str, tools: tuple[str, ...] = tags.ONE_TOOL) -> Action:
    """Return the action of a turn that was stopped at a closing tag (text/stop_automaton.py).

    Only the text up to the first closing tag counts. What the last token writes past it stays in the trajectory as the
    model wrote it, and has no meaning."""
    end = stop_automaton.closed_at(text, tags.closing_tags(tools))
    return parse_turn(text if end < 0 else text[:end], tools)


@functools.cache
def _grammar(tools: tuple[str, ...]) -> tuple[re.Pattern[str], dict[tuple[str, ...], str]]:
    """Return the pattern of every tag but the mask, and what each pair of tags does."""
    pattern = re.compile("(" + "|".join(re.escape(tag) for tag in tags.all_tags(tools) if tag != tags.MASK) + ")")
    actions: dict[tuple[str, ...], str] = {tags.tool_tags(tool): tool for tool in tools}
    return pattern, actions | {tags.ANSWER: "answer"}


def _information(body: str, tokenizer: Encoder, max_tokens: int | None) -> list[int]:
    opening, closing = tags.INFORMATION
    tail = tokenizer.encode(closing)
    ids = tokenizer.encode(opening + body)
    if max_tokens is None:
        return ids + tail
    room = max_tokens - len(tail)
    if room < len(tokenizer.encode(opening)):
        raise ValueError(f"an observation of at most {max_tokens} tokens cannot hold its own tags; raise the limit")
    return _whole_characters(ids[:room], tokenizer.token_bytes) + tail


def _whole_characters(ids: list[int], token_bytes: Sequence[bytes]) -> list[int]:
    """Drop last tokens that begin a character without its end: at most three, as a character has up to four bytes."""
    while ids:
        reader = codecs.getincrementaldecoder("utf-8")("replace")
        reader.decode(b"".join(token_bytes[i] for i in ids[-4:]))
        if not reader.getstate()[0]:
            break
        ids = ids[:-1]
    return ids
