"""Write docs/configuration.md: each setting of the configs with its default, what it may be, what it means, and which
configs change it.

    python docs/configuration_reference.py

Defaults and changes come from loading the configs, allowed values from workflows/setting_ranges.py. What a setting
means is the comment beside it in configs/*.py. Where there is none, it is the docstring of the dataclass that the
section becomes (`_DATACLASSES`), or the comment of the whole section.
"""

import ast
import dataclasses
import inspect
import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masksearch_jax import configs
from masksearch_jax.model.config import LoraConfig, ModelConfig
from masksearch_jax.retrieval.index.index_settings import IndexSettings, ScannSettings
from masksearch_jax.rl.rewards import RewardConfig
from masksearch_jax.rollout.device_programs import Sampling
from masksearch_jax.rollout.engine import RolloutConfig
from masksearch_jax.rollout.episode import EpisodeLimits
from masksearch_jax.trainers.optimizer import OptimizerConfig
from masksearch_jax.workflows import setting_ranges, setting_rules
from masksearch_jax.workflows.settings import leaves

FOLDER = Path(next(iter(configs.__path__)))
PAGE = Path(__file__).parent / "configuration.md"
COMMAND = "python docs/configuration_reference.py"

_PARTS = ("common", "recipes", "__init__")  # files of configs/ that are no configs
_PREPARE = "prepare"
# The configs of servers, each with settings of its own, and what they are the settings of.
_SERVERS = {"serve_search": "the search service", "serve": "the server of a policy"}
_RECIPES, _DUMP = "recipes", ":dump"
# Section -> the dataclasses that it becomes, whose docstrings say `field: meaning.`
_DATACLASSES = {
    "model": (ModelConfig,),
    "lora": (LoraConfig,),
    "episode": (EpisodeLimits,),
    "rollout": (RolloutConfig, Sampling),
    "dapo": (Sampling,),
    "dapo.reward": (RewardConfig,),
    "sft.optimizer": (OptimizerConfig,),
    "dapo.optimizer": (OptimizerConfig,),
    "prepare.retrieval": (IndexSettings,),
    "prepare.retrieval.scann": (ScannSettings,),
}
# What each field of an alarm means; the comments of configs/common.py say what its threshold is.
_ALARM = {
    "threshold": "the alarm starts past it",
    "window": "rows of metrics.jsonl that are compared with the threshold, by their mean (throughput: their median)",
    "action": "what happens when it starts: see docs/guides/alarms.md",
}
# Sections that a workflow reads as a whole: methods and stages of a grid.
_AS_A_WHOLE = setting_ranges.READ_AS_A_WHOLE
# Configs that are read before the others, because they introduce settings that others change.
_FIRST = ("sft", "dapo", "quickstart", "evolve", "table2")
_LONGEST = 48  # characters of a value in the column of changes
_HEAD = """# Configuration

<!-- Written by `{command}`. Change the comments in configs/ instead of this page. -->

A config is a Python file in `configs/`. `--config=configs/NAME.py` names one, `--config=configs/NAME.py:VARIANT` a
variant of it, and `--config.SECTION.SETTING=VALUE` overrides a setting. A setting that does not exist, has another type
or is out of range is refused before any work starts. Tuples are written as in Python and quoted for the shell:
`"--config.policies=('sft','dapo')"`.

This page is generated from the configs. *Default* is the value in the config that introduces the setting. *Changed by*
lists the configs and variants with another value: `name`, `name:variant`, `:dump` (the variant of that name of several
configs) and `recipes` (all variants for published models on TPU slices, see [recipes](recipes.md)).

## The configs

| config | variants | what it is for |
|---|---|---|
"""


class Source:
    """One file of configs/: its functions, and its comments by line."""

    def __init__(self, name: str):
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.name, self.docstring = name, ast.get_docstring(tree) or ""
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._beside: dict[int, str] = {}
        self._alone: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:"):
                own = self._beside if token.line[: token.start[1]].strip() else self._alone
                own[token.start[0]] = token.string.lstrip("#").strip()

    def comment(self, node: ast.AST, first: int, whole: bool) -> str:
        """Return the comments of a setting: the lines above `first`, and those beside it.

        whole: True to read the comments beside all lines of the value, False for a section, whose other lines are
        settings of its own.
        """
        above, line = [], first - 1
        while line in self._alone and not self._alone[line].startswith("---"):
            above.insert(0, self._alone[line])
            line -= 1
        lines = range(first, (node.end_lineno if whole else first) + 1)
        beside = [self._beside[number] for number in lines if number in self._beside]
        heading = self._alone.get(line, "") if not above and not beside else ""
        return " ".join([*above, *beside, heading.strip("- ")]).strip()


class Meanings:
    """The comments of the settings in configs/*.py, by the name of the setting or section."""

    def __init__(self):
        self._sources = {path.stem: Source(path.stem) for path in sorted(FOLDER.glob("*.py"))}
        self.found: dict[str, str] = {}
        self.order: dict[str, int] = {}  # of every setting and section in the sources
        self._read("common", "base_config", "")
        for name, section in (("common", "sft"), ("dapo", "dapo")):
            self._read(name, section, f"{section}.")
        self._read(_PREPARE, "get_config", "prepare.")
        self._read("recipes", "apply", "")
        for name in (*_FIRST, *self._sources):
            if name not in (*_PARTS, _PREPARE, *_SERVERS):
                self._read_introduced(name)
        self.serving: dict[str, dict[str, str]] = {}  # by config
        kept = self.found
        for name in _SERVERS:
            self.found = self.serving[name] = {}
            self._read(name, "get_config", "")
        self.found = kept

    def _read_introduced(self, source: str) -> None:
        """Read the comments of the settings that a config adds to those that were read before."""
        known, told = set(self.order), dict(self.found)
        for function in self._sources[source].functions:
            self._read(source, function, "")
        self.found = told | {name: said for name, said in self.found.items() if name not in known}

    def docstring(self, name: str) -> str:
        return self._sources[name].docstring

    def _read(self, source: str, function: str, prefix: str) -> None:
        self._statements(self._sources[source], self._sources[source].functions[function].body, prefix)

    def _statements(self, source: Source, body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.If):
                self._statements(source, [*node.body, *node.orelse], prefix)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    name = _dotted(target)
                    if name is not None:
                        self._value(source, node.value, prefix + name, node.lineno, node)
            elif isinstance(node, ast.Return) and node.value is not None:
                self._value(source, node.value, prefix.removesuffix("."), node.lineno, node)

    def _value(self, source: Source, node: ast.AST, name: str, first: int, whole: ast.AST) -> None:
        inside = _dictionary(node)
        self.order.setdefault(name, len(self.order))
        if said := source.comment(whole, first, inside is None):
            self.found.setdefault(name, said)
        below = f"{name}." if name else ""
        if inside is not None:
            for key, value in zip(inside.keys, inside.values, strict=True):
                if isinstance(key, ast.Constant) and key.lineno > first:
                    self._value(source, value, f"{below}{key.value}", key.lineno, value)
                elif isinstance(key, ast.Constant):  # in one line with its section, whose comment is for all of it
                    self.order.setdefault(f"{below}{key.value}", len(self.order))
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            module = getattr(getattr(node.func, "value", None), "id", source.name)
            other = self._sources.get(module)
            if other and function in other.functions and below not in ("", "prepare."):
                self._statements(other, other.functions[function].body, below)


def _dotted(node: ast.AST) -> str | None:
    """Return 'a.b' for the target `config.a.b`, '' for `config` itself, None for any other target."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join(parts) if isinstance(node, ast.Name) and node.id in ("config", "settings") else None


def _dictionary(node: ast.AST) -> ast.Dict | None:
    """Return the dict literal of a section: `{..}` or `ConfigDict({..})`."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ConfigDict" and node.args:
        node = node.args[0]
    return node if isinstance(node, ast.Dict) else None


def field_meanings(cls: type) -> dict[str, str]:
    """Return {field: meaning} from the docstring of a dataclass, which says `field: meaning.` or `a, b: meaning.`"""
    text = " ".join((inspect.getdoc(cls) or "").split())
    names = {field.name for field in dataclasses.fields(cls)}
    found: dict[str, str] = {}
    marks = [
        (match, [name.strip() for name in match[1].split(",")])
        for match in re.finditer(r"(?:(?<=^)|(?<=[.)] ))((?:\w+, )*\w+): ", text)
    ]
    marks = [(match, own) for match, own in marks if set(own) <= names]
    for number, (match, own) in enumerate(marks):
        end = marks[number + 1][0].start() if number + 1 < len(marks) else len(text)
        said = text[match.end() : end].strip()
        found |= dict.fromkeys(own, said)
    return found


@dataclasses.dataclass
class Setting:
    """One row of the page. changes: value -> the configs that have it, for values other than the default."""

    name: str
    default: Any
    changes: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def variants(name: str) -> list[str]:
    """Return the variants of a config, as it names them when it refuses an unknown one."""
    try:
        _module(name).get_config("?")
    except ValueError as error:
        known = re.search(r"takes (?:one of|no argument or) (.+), got", str(error))
        return [one.strip("' ") for one in known[1].split(",")] if known else []
    raise ValueError(f"configs/{name}.py takes any argument")


def _module(name: str) -> Any:
    return __import__(f"masksearch_jax.configs.{name}", fromlist=["get_config"])


def config_names() -> list[str]:
    return [path.stem for path in sorted(FOLDER.glob("*.py")) if path.stem not in _PARTS]


def settings() -> tuple[list[Setting], dict[str, list[Setting]]]:
    """Return the settings of all configs for training, in order of sections, and those of the search service."""
    os.environ.pop("MASKSEARCH_DATA", None)  # configs/language_model.py depends on it
    common, recipes = _module("common"), _module(_RECIPES)
    found: dict[str, Setting] = {}
    for name, value in leaves(common.base_config()):
        found[name] = Setting(name, value)
    alone = dict(leaves(_module(_PREPARE).get_config(), "prepare."))
    for name, value in alone.items():
        if _text(found[name].default) != _text(value):
            found[name].changes[_text(found[name].default)] = ["all configs that train"]
            found[name].default = value
    trained = {name: setting for name, setting in found.items() if setting.changes}
    for name in dict.fromkeys((*_FIRST, *config_names())):
        if name in (*_SERVERS, _PREPARE):
            continue
        plain, known = {}, variants(name)
        for variant in ("", *known):
            label = _label(name, variant, recipes.RECIPES if set(recipes.RECIPES) <= set(known) else ())
            for leaf, value in leaves(_module(name).get_config(variant)):
                if leaf.startswith(_AS_A_WHOLE):
                    continue
                if not variant:
                    plain[leaf] = _text(value)
                if leaf not in found:
                    found[leaf] = Setting(leaf, value if not variant else _Unset())
                setting, value = found[leaf], _text(value)
                before = plain.get(leaf, "") if variant else _text(setting.default)
                inherited = not variant and leaf in trained and value in setting.changes
                if value != before and not inherited and label not in setting.changes.setdefault(value, []):
                    setting.changes[value].append(label)
    whole = dict(leaves(_module(_PREPARE).get_config("wikipedia"), "prepare."))
    for name, value in whole.items():
        if _text(value) != _text(alone[name]):
            found[name].changes.setdefault(_text(value), []).append("prepare:wikipedia")
    for name, value in _published_defaults().items():
        found[name].changes.setdefault(value, []).append("with `pretrained`")
    order, served = Meanings().order, {}
    for page in _SERVERS:
        own = {name: Setting(name, value) for name, value in leaves(_module(page).get_config())}
        served[page] = _by_section(own, order)
    return _by_section(found, order), served


class _Unset:
    """The default of a setting that only variants have."""

    def __repr__(self) -> str:
        return "not set"


def _label(name: str, variant: str, recipes: Any) -> str:
    if variant in recipes:
        return _RECIPES
    return _DUMP if variant == "dump" else f"{name}:{variant}" if variant else name


def _published_defaults() -> dict[str, str]:
    """Return the defaults that change when `pretrained` names a published model."""
    config = _module("dapo").get_config()
    before = {name: _text(value) for name, value in leaves(config)}
    config.pretrained = "FOLDER"
    after = {name: _text(value) for name, value in leaves(config) if name != "pretrained"}
    return {name: value for name, value in after.items() if value != before[name]}


def _by_section(found: dict[str, Setting], order: dict[str, int]) -> list[Setting]:
    """Return the settings section by section, in the order of the sources; those of preparation come last."""
    sections: dict[str, list[Setting]] = {}
    for setting in sorted(found.values(), key=lambda one: order.get(one.name, len(order))):
        sections.setdefault(setting.name.rpartition(".")[0], []).append(setting)
    firsts = list(dict.fromkeys(section.split(".")[0] for section in sections))
    tops = ["", *(first for first in firsts if first not in ("", "prepare")), "prepare"]
    return [
        one
        for top in tops
        for section in sorted(sections, key=lambda name: name.count("."))
        if section.split(".")[0] == top
        for one in sections[section]
    ]


def meaning(name: str, meanings: dict[str, str]) -> str:
    """Return what a setting means; '' if neither a comment nor a docstring says so."""
    if name in meanings:
        return meanings[name]
    section, _, own = name.rpartition(".")
    if section.startswith("prepare.llm"):
        return meaning(name.removeprefix("prepare."), meanings)
    if section.startswith("alarms."):
        return _ALARM[own]
    for cls in _DATACLASSES.get(section, ()):
        if own in (said := field_meanings(cls)):
            return said[own]
    other = {"sft.optimizer": "dapo.optimizer", "dapo.optimizer": "sft.optimizer"}.get(section, "")
    if other and f"{other}.{own}" in meanings:
        return meanings[f"{other}.{own}"]
    return ""


def undescribed() -> list[str]:
    """Return the settings that neither a comment, a docstring nor the comment of their section describes."""
    told, (trained, served) = Meanings(), settings()
    found = []
    for group, meanings in ((trained, told.found), *((served[page], told.serving[page]) for page in _SERVERS)):
        for setting in group:
            section = setting.name.rpartition(".")[0]
            if not meaning(setting.name, meanings) and not (section and meanings.get(section)):
                found.append(setting.name)
    return found


def page() -> str:
    """Return the page as Markdown."""
    told, (trained, served) = Meanings(), settings()
    lines = [_HEAD.format(command=COMMAND).rstrip()]
    recipes = _module(_RECIPES).RECIPES
    for name in config_names():
        whole = not set(recipes) - set(variants(name))
        known = [f"`{one}`" for one in variants(name) if not (whole and one in recipes)]
        known += [_RECIPES] if whole else []
        purpose = told.docstring(name).split("\n\n")[0].replace("\n", " ")
        lines.append(f"| `configs/{name}.py` | {', '.join(known)} | {_cell(purpose)} |")
    lines += ["", "## Settings of training, evaluation and workflows"]
    lines += _tables(trained, told.found, setting_ranges.RANGES["train"])
    for page, what in _SERVERS.items():
        lines += ["", f"## Settings of {what}", "", f"`configs/{page}.py`, read by `{page}` alone."]
        lines += _tables(served[page], told.serving[page], setting_ranges.RANGES[page], changes=False)
    return "\n".join(lines) + "\n"


def _tables(group: list[Setting], meanings: dict[str, str], ranges: Any, changes: bool = True) -> Iterator[str]:
    section = None
    for setting in group:
        own = setting.name.rpartition(".")[0]
        if own != section:
            section = own
            yield from ("", f"### {own}" if own else "### Without a section", "")
            if said := meanings.get(own, ""):
                yield from (_cell(_sentence(said)), "")
            if own == "prepare":
                yield from (
                    "In `configs/prepare.py` itself these settings have no prefix: `--config.dump=FILE`.",
                    "",
                )
            yield "| setting | default | allowed | meaning |" + (" changed by |" if changes else "")
            yield "|---|---|---|---|" + ("---|" if changes else "")
        yield _row(setting, meanings, ranges, changes)


def _row(setting: Setting, meanings: dict[str, str], ranges: Any, changes: bool) -> str:
    unset = isinstance(setting.default, _Unset)
    rule = setting_ranges.rule_of(ranges, setting.name)
    rule = rule or setting_rules.any_like(next(iter(setting.changes)) if unset else setting.default)
    allowed = ", ".join(f"`{choice!r}`" for choice in rule.choices) if rule.choices else rule.says
    default = "not set" if unset else _code(_text(setting.default))
    cells = [f"`{setting.name}`", default, allowed, _sentence(meaning(setting.name, meanings))]
    if changes:
        cells.append(_changes(setting.changes))
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _changes(changes: dict[str, list[str]]) -> str:
    """Return which configs have which value. A value that is long, or one of several of the recipes, is left out."""
    several = sum(_RECIPES in names for names in changes.values()) > 1
    found = [_RECIPES] if several else []
    for value, names in changes.items():
        names = [name for name in names if not (several and name == _RECIPES)]
        where = ", ".join(name if " " in name or name in (_RECIPES, _DUMP) else _code(name) for name in names)
        if where:
            found.append(f"{where}: {_code(value)}" if len(value) <= _LONGEST else where)
    return "; ".join(found)


def _text(value: Any) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)


def _code(value: str) -> str:
    return f"`{value}`"


def _sentence(text: str) -> str:
    if re.match(r"[a-z]{2,}(?![\w.|-]| \|)", text):  # a word, and neither a name nor one of several choices
        text = text[0].upper() + text[1:]
    return re.sub(r"docs/([\w/]+)\.md", r"[\1](\1.md)", text)


def _cell(text: str) -> str:
    """Return text for a cell of a table: one line, without characters that Markdown or HTML would take for its own."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    plain = [
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*").replace("[mask]", r"\[mask\]")
        for part in parts
    ]
    return "".join(plain).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    lacking = undescribed()
    print(f"wrote {PAGE}; settings without a description: {len(lacking)} {lacking}")
