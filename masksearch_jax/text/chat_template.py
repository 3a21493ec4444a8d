"""Prompts for chat models: the model's own published chat template around one user message.

Enters: the template in a tokenizer's folder (or in a file that a setting names), a system message, and values of
template variables. Leaves: a ChatTemplate, which turns a task's text into prompt ids, and what the template writes
after a reply, which shows the token that ends a turn. The ids are those of transformers'
`apply_chat_template(add_generation_prompt=True)` (tests/text/test_chat_template.py). `encode_conversation` does the
same for several messages, which a server is sent. Left out: tools, images (a search happens inside the model's one
turn), and how Jinja is run (text/jinja_sandbox.py).

What a task or a system message spells is data under every template: only the template makes control tokens. So the
template is rendered with marks in place of the two messages, and the result is cut at the marks. The template's parts
are encoded once, with control tokens. The template's text between a control token and the user's message is encoded
together with the message, as text, because merges may cross that border. No task renders the template again.
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from masksearch_jax.runtime import json_files
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.text import tags, tokenizer_protocol
from masksearch_jax.text.jinja_sandbox import SandboxedTemplate

AUTO = "auto"
FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
_AGAIN = "download it again"
# Private-use characters, which no template spells, trims or changes the case of.
_USER, _SYSTEM, _REPLY = "\ue0b5\ue0b6\ue0b7", "\ue0b5\ue0b6\ue0b8", "\ue0b5\ue0b6\ue0b9"
_FIRST_MARK = 0xE100  # the marks of a conversation are _USER and one more character, counted from this one
# What templates are known to change in a message: whitespace around it, markup, thoughts, switches, quotes.
_PROBE = (
    " \n Who, in <b>1984</b> & \"São\" '{{ 7 * 7 }}' {% raw %} \\n [mask] #1\n\n  wrote </think> <search> x</search>"
    "  /think <think> y?\t "
)
_HARMLESS = "Who, in 1984?"
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")


@dataclasses.dataclass(frozen=True)
class TemplateSource:
    """The text of a template. where: the file that holds it, for error messages."""

    text: str
    where: str


class ControlTokenizer(tokenizer_protocol.Tokenizer, Protocol):
    """A tokenizer with control tokens: text.published_tokenizer.PublishedTokenizer."""

    chat_template: TemplateSource | None
    special_tokens: dict[str, str]

    def encode_control(self, text: str) -> list[int]: ...

    def cut_control(self, text: str) -> list[str | int]: ...


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """The parts of a prompt: prefix_ids, the ids of left + text + right (encoded as one text), suffix_ids.

    left, right: the template's plain text next to the message. trims: the str method that drops whitespace around the
    message as the template does ('strip', 'lstrip', 'rstrip'), or '' if the template keeps it.
    """

    prefix_ids: tuple[int, ...] = ()
    left: str = " "
    right: str = ""
    suffix_ids: tuple[int, ...] = ()
    trims: str = ""

    def encode(self, tokenizer: tokenizer_protocol.Tokenizer, text: str) -> list[int]:
        """Return the prompt ids of a text."""
        text = _trimmed(text, self.trims)
        return [*self.prefix_ids, *tokenizer.encode(self.left + text + self.right), *self.suffix_ids]


def _trimmed(text: str, method: str) -> str:
    return getattr(text, method)() if method else text


def find_template(folder: Path | str, chat: str = AUTO) -> TemplateSource | None:
    """Return the chat template of a tokenizer's folder, None if it has none.

    chat: the setting of that name; the path of a file replaces what the folder holds. In the folder, the file
    chat_template.jinja has precedence over tokenizer_config.json. If the latter has several templates, the one named
    'default' is taken. Raises FileNotFoundError or ValueError that names a missing or damaged file.
    """
    if chat not in ("", AUTO):
        return _read(Path(chat), "name a file of a Jinja template, or set chat='auto' for the folder's own")
    folder = Path(folder)
    if (folder / FILE).exists():
        return _read(folder / FILE, _AGAIN)
    file = folder / CONFIG
    found = json_files.read_json_object(file, _AGAIN).get("chat_template") if file.exists() else None
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        found = {str(one.get("name")): one.get("template") for one in found}
    if isinstance(found, dict):
        if "default" not in found:
            raise ValueError(
                f"{file} has the chat templates {', '.join(map(repr, found))} and none named 'default'; write the one "
                f"that you mean into {folder / FILE}"
            )
        found = found["default"]
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{file} has chat_template={found!r:.60}, where a template belongs; {_AGAIN}")
    return TemplateSource(found, str(file)) if found else None


def _read(file: Path, next_step: str) -> TemplateSource:
    try:
        return TemplateSource(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist; {next_step}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as UTF-8 text ({error}); {next_step}") from error


def read_variables(given: Sequence[str]) -> JsonObject:
    """Return {name: value} of the setting chat_variables, such as 'enable_thinking=False', 'date_string=1 Jan 2025'.

    True, False (in any case), numbers and quoted strings are read as Python reads them. Any other value is a string as
    it stands. Raises ValueError for an entry that is no name=value, and for a name that occurs twice.
    """
    found: JsonObject = {}
    for one in given:
        name, equals, said = str(one).partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise ValueError(f"chat_variables={tuple(given)!r}: {one!r} is no name=value, or its name stands twice")
        try:
            value = ast.literal_eval(said.capitalize() if said.lower() in ("true", "false") else said)
        except (ValueError, SyntaxError):
            value = said
        found[name] = value if isinstance(value, bool | int | float | str) else said
    return found


def open_chat_template(
    tokenizer: tokenizer_protocol.Tokenizer, chat: str, system: str = "", variables: Mapping[str, Json] | None = None
) -> ChatTemplate:
    """Return the ChatTemplate that makes prompts for a tokenizer.

    chat: '' for a base model, whose prompt is one space and the text, after the beginning-of-sequence token if the
    tokenizer has one. Any other value stands for the template that the tokenizer was opened with (`find_template`).
    system: the system message, '' for the template's own. variables: values for the template, such as
    {"enable_thinking": False}. Raises ValueError that names the file if there is no template, if it fails, if it does
    not show the user's message exactly once and unchanged, or if it does not read one of the variables.
    """
    variables = dict(variables or {})
    if not chat:
        if system or variables:
            said = f"system={system[:60]!r}" if system else f"chat_variables={variables}"
            raise ValueError(f"{said} needs a chat template; set chat='auto' for the tokenizer's own")
        return ChatTemplate(prefix_ids=tuple(tokenizer.prefix_ids))
    source = getattr(tokenizer, "chat_template", None)
    if source is None:
        raise ValueError(
            f"chat={chat!r}: {tokenizer.path} holds no chat template ({FILE}, or chat_template in {CONFIG}); set "
            "chat='' for a base model, or name the file of a template (chat=FILE.jinja)"
        )
    published = cast(ControlTokenizer, tokenizer)  # only such a tokenizer has a chat template
    rendering = _Rendering(source, published.special_tokens, variables)
    parts, trims = rendering.parts(system)
    _refuse_begun_thoughts(published.cut_control(parts[-1]), source.where)
    made = _assembled(published, parts, rendering.shown(system, parts), trims)
    # Compare with a whole prompt that is encoded at once: some tokenizers join a control token and the text after it.
    whole = published.encode_control(_filled(parts, _HARMLESS, _HARMLESS))
    if _assembled(published, parts, _HARMLESS, trims).encode(tokenizer, _HARMLESS) != whole:
        raise ValueError(f"{source.where}: the tokenizer {tokenizer.path} joins control tokens and text")
    return made


def encode_conversation(
    tokenizer: ControlTokenizer, messages: Sequence[tuple[str, str]], variables: Mapping[str, Json] | None = None
) -> list[int]:
    """Return the prompt ids of a conversation, (role, text) each, in the tokenizer's chat template.

    What a message spells is data. A template may drop a message, the whitespace around it, and the thoughts of an
    earlier reply. Raises ValueError for a tokenizer without a template, or if the template fails or changes a message
    in another way.
    """
    source = tokenizer.chat_template
    if source is None:
        raise ValueError(f"{tokenizer.path} holds no chat template")
    rendering = _Rendering(source, tokenizer.special_tokens, variables or {})
    marks = [_USER + chr(_FIRST_MARK + number) for number in range(len(messages))]
    marked, shown = (
        rendering.render([{"role": role, "content": text} for (role, _), text in zip(messages, texts, strict=True)])
        for texts in (marks, [text for _, text in messages])
    )
    written, *pieces = marked.split(_USER)
    items: list[str | int] = [*tokenizer.cut_control(written)]
    for piece in pieces:
        number, between = ord(piece[:1] or "\0") - _FIRST_MARK, piece[1:]
        if not 0 <= number < len(messages):
            raise ValueError(f"{source.where}: the chat template cuts or changes a message")
        role, said = messages[number]
        text = next((one for one in _forms(role, said) if shown.startswith(one + between, len(written))), None)
        if text is None:
            raise ValueError(f"{source.where}: the chat template changes message {number} ({said[:60]!r})")
        written += text + between
        items += [text, *tokenizer.cut_control(between)]
    if written != shown:
        raise ValueError(f"{source.where}: the chat template shows this conversation in another way than its parts")
    return list(_ids(tokenizer, _merged(items)))


def _forms(role: str, text: str) -> list[str]:
    """Return the forms in which a template may show a message, the likeliest first."""
    without_thoughts = text.rpartition(tags.THINK[1])[2] if role == "assistant" else text
    return [form for one in (text, without_thoughts) for form in (one, one.strip(), one.lstrip(), one.rstrip())]


def render_reply(source: TemplateSource, special_tokens: Mapping[str, str]) -> tuple[str, str]:
    """Return (everything that a template writes around a message and the reply to it, what it writes after the reply).

    special_tokens: {role: token}, with roles such as 'eos_token'. Both results are '' for a template that cannot be
    rendered in this way; `open_chat_template` says why. The second is '' also if the template shows the reply twice.
    """
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _REPLY}]
    try:
        rendered = _Rendering(source, special_tokens, {}).render(messages, add_generation_prompt=False)
    except ValueError:
        return "", ""
    before, _, after = rendered.partition(_REPLY)
    return before + after, "" if _REPLY in after else after


class _Rendering:
    """A template with everything that it is given besides the messages."""

    def __init__(self, source: TemplateSource, special_tokens: Mapping[str, str], variables: Mapping[str, Json]):
        self.where = source.where
        self._template = SandboxedTemplate(source.text, source.where)
        read = self._template.variables() - {*_GIVEN, *special_tokens} if variables else frozenset()
        if unknown := sorted(variables.keys() - read):
            raise ValueError(
                f"chat_variables: {unknown[0]}={variables[unknown[0]]!r}, but {self.where} reads no such variable; it "
                f"reads {', '.join(sorted(read)) or 'none'}"
            )
        self._given = {"tools": None, "documents": None, **special_tokens, **variables}

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        return self._template.render({
            **self._given,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        })

    def parts(self, system: str) -> tuple[list[str], str]:
        """Return (the parts of the prompt, how the template trims the user's message).

        The parts are texts of the template with `_SYSTEM` and `_USER` between them. They begin and end with a text of
        the template."""
        rendered = self._prompt(_SYSTEM if system else "", _USER)
        parts = _cut(rendered)
        if (shown := parts.count(_USER)) != 1:
            times = f"{shown} times" if shown else "nowhere"
            raise ValueError(f"{self.where}: the chat template shows the user's message {times}; once is needed")
        if system and _SYSTEM not in parts:
            said = f"leave system={system[:60]!r} out"
            raise ValueError(f"{self.where}: the chat template shows no system message; {said}")
        whole = self._prompt(_SYSTEM if system else "", _PROBE)
        for trims in ("", "strip", "lstrip", "rstrip"):
            if whole == _filled(parts, _SYSTEM, _trimmed(_PROBE, trims)):
                return parts, trims
        raise ValueError(
            f"{self.where}: the chat template changes the user's message (of {_PROBE!r} it makes {whole!r:.300}); only "
            "blank space around it may go"
        )

    def shown(self, system: str, parts: Sequence[str]) -> str:
        """Return a system message as the template shows it: whole, or without whitespace around it."""
        rendered = self._prompt(system, _USER)
        for text in (system, system.strip(), system.lstrip(), system.rstrip()):
            if rendered == _filled(parts, text, _USER):
                return text
        raise ValueError(f"{self.where}: the chat template changes the system message {system[:60]!r}")

    def _prompt(self, system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        return self.render([*messages, {"role": "user", "content": user}])


def _cut(rendered: str) -> list[str]:
    """Cut a rendered prompt at the marks and return [text, mark, text, ..]."""
    parts = [rendered]
    for mark in (_USER, _SYSTEM):
        cut: list[str] = []
        for part in parts:
            texts = part.split(mark) if part not in (_USER, _SYSTEM) else [part]
            for number, text in enumerate(texts):
                cut += [mark, text] if number else [text]
        parts = cut
    return parts


def _filled(parts: Sequence[str], system: str, user: str) -> str:
    return "".join(system if part == _SYSTEM else user if part == _USER else part for part in parts)


def _assembled(tokenizer: ControlTokenizer, parts: Sequence[str], system: str, trims: str) -> ChatTemplate:
    """Return the template with its parts as ids, except for the text that touches the user's message."""
    place = parts.index(_USER)
    before, after = (_joined(tokenizer, some, system) for some in (parts[:place], parts[place + 1 :]))
    left = right = ""
    if before and isinstance(before[-1], str):
        left, before = before[-1], before[:-1]
    if after and isinstance(after[0], str):
        right, after = after[0], after[1:]
    return ChatTemplate(_ids(tokenizer, before), left, right, _ids(tokenizer, after), trims)


def _joined(tokenizer: ControlTokenizer, parts: Sequence[str], system: str) -> list[str | int]:
    """Return the ids of control tokens and the texts between them. Whatever the system message spells is text."""
    return _merged([item for part in parts for item in ([system] if part == _SYSTEM else tokenizer.cut_control(part))])


def _merged(items: Sequence[str | int]) -> list[str | int]:
    """Join the texts that touch each other, because merges may cross their borders."""
    found: list[str | int] = []
    for item in items:
        if isinstance(item, str) and found and isinstance(found[-1], str):
            found[-1] += item
        else:
            found.append(item)
    return found


def _ids(tokenizer: ControlTokenizer, items: Sequence[str | int]) -> tuple[int, ...]:
    return tuple(id for item in items for id in (tokenizer.encode(item) if isinstance(item, str) else [item]))


def _refuse_begun_thoughts(after: Sequence[str | int], where: str) -> None:
    """Raise ValueError if a prompt ends inside a thought that already has words: the turn could not be read.

    after: what follows the user's message, cut at control tokens.
    """
    opening, closing = tags.THINK
    _, opened, said = after[-1].rpartition(opening) if after and isinstance(after[-1], str) else ("", "", "")
    if opened and closing not in said and said.strip():
        raise ValueError(f"{where}: the chat template begins the thought of the reply ({said!r:.100}); it may open one")
