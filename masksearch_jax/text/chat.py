"""How an instruct model is addressed: the text around one user message, by model family.

Enters: a tokenizer, the name of a family and a system message. Leaves: a Frame, which makes prompt ids of a task's
text. The templates are written out here, one function a family, and equal what transformers renders from the published
chat templates (tests/text/chat_vectors.json); there is no template engine. Left out: several turns, tools, images; a
search happens inside the model's one turn. The thinking switch of Qwen3 stays at its default, on.

The text of a task is data. Control tokens come of the template alone, never of what a passage spells.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from masksearch_jax.runtime.json_files import read_json_object
from masksearch_jax.text.interface import Tokenizer

_QWEN25_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
# The published template writes today's date where it can ask for it. A prompt that changes with the day is no data set,
# so this is the date that the template falls back to.
_LLAMA31_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


def _chatml(system: str) -> tuple[str, str]:
    said = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{said}<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def _qwen25(system: str) -> tuple[str, str]:
    return _chatml(system or _QWEN25_SYSTEM)


def _llama3(system: str) -> tuple[str, str]:
    said = f"{_llama_header('system')}{system.strip()}<|eot_id|>" if system else ""
    return (
        f"<|begin_of_text|>{said}{_llama_header('user')}",
        f"<|eot_id|>{_llama_header('assistant')}",
    )


def _llama31(system: str) -> tuple[str, str]:
    # The dates stand there without a system message too.
    before, after = _llama3("")
    said = f"{_llama_header('system')}{_LLAMA31_DATES}{system.strip()}<|eot_id|>"
    return before.replace("<|begin_of_text|>", "<|begin_of_text|>" + said), after


def _llama_header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _gemma(system: str) -> tuple[str, str]:
    said = f"{system}\n\n" if system else ""
    return f"<bos><start_of_turn>user\n{said}", "<end_of_turn>\n<start_of_turn>model\n"


# What ends a turn in the families below, the model's own turn included.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
# system message -> (what stands before the user's text, what stands after it)
FAMILIES: dict[str, Callable[[str], tuple[str, str]]] = {
    "qwen2.5": _qwen25,
    "chatml": _chatml,  # Qwen3
    "llama3": _llama3,
    "llama3.1": _llama31,  # and 3.2, 3.3
    "gemma": _gemma,  # Gemma 2 (which knows no system message) and 3
}
# What tells a published template from the others, most specific first.
_MARKS = {
    "qwen2.5": _QWEN25_SYSTEM,
    "chatml": "<|im_start|>",
    "llama3.1": "Cutting Knowledge Date",
    "llama3": "<|start_header_id|>",
    "gemma": "<start_of_turn>",
}


@dataclasses.dataclass(frozen=True)
class Frame:
    """A prompt is prefix_ids, the ids of left + text + right as one piece of data, suffix_ids.

    left and right are the template's plain text next to the task's: encoded together with it, as a merge may cross.
    """

    prefix_ids: tuple[int, ...] = ()
    left: str = " "
    right: str = ""
    suffix_ids: tuple[int, ...] = ()

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Returns the ids of a prompt. text: without blank space around it, which some families' templates trim."""
        return [*self.prefix_ids, *tokenizer.encode(self.left + text + self.right), *self.suffix_ids]


def frame(tokenizer: Tokenizer, family: str, system: str = "") -> Frame:
    """Returns the frame of a family, or of no family: '' is for base models, whose prompt is one space and the text,
    after the beginning-of-sequence token if the tokenizer has one. 'auto' takes the family of the chat template that
    the tokenizer's folder holds.

    Raises ValueError for an unknown family, one that the tokenizer has no tokens for, or a system message without one.
    """
    if not family:
        if system:
            raise ValueError(f"system={system[:60]!r} needs a chat family; one of {', '.join(FAMILIES)}, auto")
        return Frame(prefix_ids=tuple(tokenizer.prefix_ids))
    if family == "auto":
        family = published_family(tokenizer.path)
    if family not in FAMILIES:
        raise ValueError(f"chat={family!r} is none of {', '.join(FAMILIES)}, auto, or '' for a base model")
    control = getattr(tokenizer, "control", frozenset())
    before, after = FAMILIES[family](system)
    if not all(any(name in part for name in control) for part in (before, after)):
        raise ValueError(f"chat={family!r}: the tokenizer {tokenizer.path} has no control tokens like {after[:20]!r}")
    # The last control token before the text, the first one after it.
    left = max(before.rfind(name) + len(name) for name in control if name in before)
    right = min(after.find(name) for name in control if name in after)
    made = Frame(
        prefix_ids=tuple(tokenizer.encode_control(before[:left])),
        left=before[left:],
        right=after[:right],
        suffix_ids=tuple(tokenizer.encode_control(after[right:])),
    )
    probe = "Who, in 1984?"
    if made.encode(tokenizer, probe) != tokenizer.encode_control(before + probe + after):
        raise ValueError(f"chat={family!r}: the tokenizer {tokenizer.path} joins control tokens and text")
    return made


def published_family(folder: Path | str) -> str:
    """Returns the family of the chat template in a checkpoint's folder; raises ValueError if it holds none we know."""
    folder = Path(folder)
    template, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    text = template.read_text(encoding="utf-8", errors="replace") if template.exists() else ""
    if not text and config.exists():
        found = read_json_object(config, "download the folder again").get("chat_template") or ""
        text = found if isinstance(found, str) else json.dumps(found)  # or a list of named ones
    for family, mark in _MARKS.items():
        if mark in text:
            return family
    raise ValueError(
        f"{folder} has {'a chat template of no known family' if text else 'no chat template'}; set one of "
        f"{', '.join(FAMILIES)}, or '' for a base model"
    )
