"""The card of an exported policy: README.md for people, masksearch.json for the commands that serve it.

Enters: the folder of a stage, and the folder that was written from it. Leaves: two files in the latter. What the run
of the stage does not say is left out: a stage may have been copied away from its data and its scores.
"""

from pathlib import Path

from masksearch_jax.runtime import json_files, settings_history
from masksearch_jax.runtime.types import Json, JsonObject
from masksearch_jax.text import chat_template
from masksearch_jax.text.tool_names import VISIT
from masksearch_jax.workflows.few_shot import Wording
from masksearch_jax.workflows.tools import ARTICLE

CARD, FACTS = "README.md", "masksearch.json"
_WORDING = ("chat", "system", "chat_variables", "instruction", "question_instruction", "instruction_place")
_AGAIN = "make it again, or remove it"


def write(target: Path, stage: Path, step: int, adapters_of: str = "") -> None:
    """Write the card of `stage` into the exported folder `target`.

    step: of the checkpoint. adapters_of: the base of adapters that were not merged; '' for a whole model.
    The chat template that the prompts were made with is copied as well, if the folder's own is another one. Raises
    ValueError that names a file of the run which is damaged.
    """
    run, recorded = stage.parent, settings_history.last_settings(stage)
    wording, tools = _wording(run / "data"), recorded.get("tools", {})
    own = _own_tools(tools)
    facts: JsonObject = {
        "stage": stage.name,
        "step": step,
        "settings": {
            "episode": recorded.get("episode", {}),
            "search": {"hits": recorded["search"]["hits"]} if "search" in recorded else {},
            "tools": {name: tools[name] for name in ("visit", "snippet_words") if name in tools and name not in own},
        },
        "own_tools": own,
        "wording": wording,
        "data": _data(run / "data"),
        "scores": _scores(run / "evaluate"),
    }
    template = run / "data" / "tokenizer" / chat_template.FILE
    if wording and wording.get("chat") and template.exists():
        (target / chat_template.FILE).write_bytes(template.read_bytes())
    json_files.write_json(target / FACTS, facts)
    (target / CARD).write_text(_card(target.name, facts, recorded, adapters_of), encoding="utf-8")


def _own_tools(tools: JsonObject) -> list[str]:
    """Return the names of the tools that only this machine has, beside the search, for which any other stands in."""
    visit = [VISIT] if tools.get("visit", "") not in ("", ARTICLE) else []
    return visit + [entry.partition("=")[0] for entry in tools.get("more", ())]


def _wording(data: Path) -> JsonObject | None:
    if not (data / Wording.FILE).exists():
        return None
    read = Wording.read(data)
    found = {name: read[name] for name in _WORDING if name in read}
    return found | ({"chat": chat_template.AUTO} if found.get("chat") else {})  # a file was copied by preparation


def _data(data: Path) -> JsonObject:
    """Return what the manifest of W/data says about its contents, {} without one."""
    if not (data / "manifest.json").exists():
        return {}
    read = json_files.read_json_object(data / "manifest.json", _AGAIN)
    found = {name: read[name] for name in ("articles", "passages", "examples") if name in read}
    source = read.get("source")
    return found | ({"source": Path(str(source.get("path", ""))).name} if isinstance(source, dict) else {})


def _scores(folder: Path) -> JsonObject:
    """Return {policy: {suite: {recall, recall_se, em, f1, episodes}}} of the evaluations of a run."""
    found: JsonObject = {}
    for file in sorted(folder.glob("*/scores.json")):
        read = json_files.read_json_object(file, _AGAIN)
        found[file.parent.name] = {
            suite: {name: scores.get(name) for name in ("recall", "recall_se", "em", "f1", "episodes")}
            for suite, scores in read.items()
            if isinstance(scores, dict) and "recall" in scores
        }
    return found


_INTRODUCTION = """A policy that searches before it answers. It plans, calls a search tool over several turns, reads
what it finds, and answers a question or fills the `[mask]`s of a passage. It was trained with masksearch_jax, after
MaskSearch (arXiv 2505.20285).
"""
_TURNS = """
A turn is `<think> ..</think><search> query</search>` or `<think> ..</think><answer> answer</answer>`. After a search
the tool writes `<information> title: text ..</information>`, and the policy goes on.
"""
_CALLS = """## How to call

With masksearch_jax, which runs the whole search loop (`W` is a prepared run, whose articles are searched):

```bash
python -m masksearch_jax.ask "Who founded it?" --policy={name} --workdir=W
python -m masksearch_jax.serve --policy={name} --workdir=W --agent
```

The server speaks OpenAI's API:

```python
import openai

client = openai.OpenAI(base_url="http://127.0.0.1:8001/v1", api_key="none")
messages = [{{"role": "user", "content": "Who founded it?"}}]
reply = client.chat.completions.create(model="{name}", messages=messages)
print(reply.choices[0].message.content, reply.masksearch)
```

Any other library loads the folder as a language model; it has to stop at `</search>`, search, and go on.
"""

_CALLS_OF_ADAPTERS = """## How to call

The `peft` library loads the adapters onto their base; the model has to stop at `</search>`, search, and go on. The
commands of masksearch_jax that run the search loop (`ask`, `serve`) take a whole model: export it where it was trained,

```bash
python -m masksearch_jax.convert --from=W/{stage} --to=FOLDER --merge
```
"""


def _card(name: str, facts: JsonObject, recorded: JsonObject, adapters_of: str) -> str:
    kind = [
        "---",
        f"library_name: {'peft' if adapters_of else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags: [masksearch, search-agent]",
        "---",
        "",
    ]
    origin = f"Stage: `{facts['stage']}`, checkpoint {facts['step']}."
    if recorded.get("pretrained"):
        origin += f" Started from `{_model_name(recorded['pretrained'])}`."
    if adapters_of:
        origin += f" This folder holds adapters; their base is `{_model_name(adapters_of)}`."
    parts = [*kind, f"# {name}", "", _INTRODUCTION, origin, "", *_about_data(facts["data"]), *_about_scores(facts)]
    calls = _CALLS_OF_ADAPTERS.format(stage=facts["stage"]) if adapters_of else _CALLS.format(name=name)
    return "\n".join([*parts, *_about_prompts(facts), calls])


def _model_name(folder: str) -> str:
    """Return ORG/NAME@COMMIT of a folder in the cache of the Hugging Face Hub, and the name of any other folder."""
    path = Path(folder)
    kind, _, name = path.parent.parent.name.partition("--")
    if kind == "models" and path.parent.name == "snapshots":
        return f"{name.replace('--', '/')}@{path.name}"
    return path.name


def _about_data(data: JsonObject) -> list[str]:
    if not data:
        return []
    told = [f"{data[name]:,} {name}" for name in ("articles", "passages") if isinstance(data.get(name), int)]
    lines = [
        "## Data",
        "",
        f"Prepared from `{data.get('source', '?')}`: {', '.join(told) or 'see masksearch.json'}.",
        "",
    ]
    examples = data.get("examples")
    if isinstance(examples, dict) and isinstance(examples.get("train"), dict):
        counts = ", ".join(f"{name} {count:,}" for name, count in examples["train"].items() if isinstance(count, int))
        lines += [f"Training examples by task: {counts}.", ""]
    return lines


def _about_scores(facts: JsonObject) -> list[str]:
    rows = [(policy, suite, one) for policy, suites in facts["scores"].items() for suite, one in suites.items()]
    if not rows:
        return []
    lines = [
        "## Scores",
        "",
        f"Of this run's evaluations; the policy `{facts['stage']}` is the one in this folder. ± is one standard error "
        "over episodes.",
        "",
        "| policy | task | recall | EM | F1 | episodes |",
        "|---|---|---|---|---|---|",
    ]
    for policy, suite, one in rows:
        spread = "" if one["recall_se"] is None else f" ± {one['recall_se']:.3f}"
        shown = [f"{_number(one['recall'])}{spread}", _number(one["em"]), _number(one["f1"]), str(one["episodes"])]
        lines.append(f"| {policy} | {suite} | {' | '.join(shown)} |")
    return [*lines, ""]


def _number(value: Json) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def _about_prompts(facts: JsonObject) -> list[str]:
    wording, episode = facts["wording"], facts["settings"]["episode"]
    if not wording:
        return []
    place = "before" if wording.get("instruction_place") == "before" else "after"
    said = {
        "System message": wording.get("system"),
        f"Instruction of a masked passage ({place} it)": wording.get("instruction"),
        f"Instruction of a question ({place} it)": wording.get("question_instruction"),
        "Chat template": "the one in this folder" if wording.get("chat") else "none",
    }
    lines = ["## Prompt", "", *(f"- {what}: {text}" for what, text in said.items() if text)]
    if episode:
        lines.append(
            f"- An episode has at most {episode.get('turns')} turns of {episode.get('turn_tokens')} tokens, "
            f"observations of {episode.get('observation_tokens')} and {episode.get('total_tokens')} tokens in all."
        )
    return [*lines, _TURNS]
