"""Instructions for an instruct model: the texts that settings may name instead of spelling them out.

Enters: the value of `prepare.tasks.instruction`, `.question_instruction` or `.system`. Leaves: the text. The 'default'
of an instruction states the task and the protocol: what the tags mean, when to search, what an answer looks like.
'visit' adds the tool of that name. 'short' states the task alone, for a chat template whose system message ('default'
or 'visit' of `system`) states the protocol. 'clues' states the task and repeats the words around each mask
(text/clues.py), so that a small model sees which words it has to continue. Any other value is the text itself, where
'{clues}' stands for these words. Every episode pays for each of these tokens: with SmolLM2's tokenizer the defaults
have 51, 51 and 46 tokens.
"""

from masksearch_jax.text import clues

_PROTOCOL = (
    "Search before you answer: write <think> thoughts</think><search> what to look up</search> and read what it finds. "
    "Then write <think> thoughts</think><answer> {answer}</answer>."
)
_VISIT = "<visit> title</visit> reads on in an article that a search found."
_FILL = "Fill in each [mask]."
_REPLY = "Answer the question in a few words."

NAMED = {
    "instruction": {
        "default": f"{_FILL} {_PROTOCOL.format(answer='first; second')}",
        "visit": f"{_FILL} {_PROTOCOL.format(answer='first; second')} {_VISIT}",
        "short": _FILL,
        "clues": f"Fill in {clues.PLACEHOLDER}.",
    },
    "question_instruction": {
        "default": f"{_REPLY} {_PROTOCOL.format(answer='answer')}",
        "visit": f"{_REPLY} {_PROTOCOL.format(answer='answer')} {_VISIT}",
        "short": _REPLY,
        "clues": f"The answer is [mask]. Fill in {clues.PLACEHOLDER}.",  # in the form of a masked passage
    },
    "system": {
        "default": _PROTOCOL.format(answer="answer; next answer"),
        "visit": f"{_PROTOCOL.format(answer='answer; next answer')} {_VISIT}",
    },
}
# Where an instruction stands: after the passage or question, or before it with an empty line between.
PLACES = ("after", "before")


def text_of(setting: str, value: str) -> str:
    """Return the text that a value of a setting stands for. setting: a key of NAMED."""
    return NAMED[setting].get(value, value)


def around(instruction: str, place: str) -> tuple[str, str]:
    """Return (what an instruction puts before the text of a task, what it puts after it).

    Raises ValueError for a `place` that is none of PLACES."""
    if place not in PLACES:
        raise ValueError(f"instruction_place={place!r} is none of {PLACES}")
    if not instruction:
        return "", ""
    return (f"{instruction}\n\n", "") if place == "before" else ("", f" {instruction}")
