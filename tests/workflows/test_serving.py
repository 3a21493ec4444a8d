"""A policy that is opened, exported, asked in the terminal and served: a trained stage, and the folder of an export."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import openai
import policy_server
import pytest
import serving
import tiny_published

from masksearch_jax.data.records import Passage
from masksearch_jax.model.published import export
from masksearch_jax.runtime import settings_history
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.runtime.json_files import write_json
from masksearch_jax.text.chat_template import open_chat_template
from masksearch_jax.workflows import asking, conversion, model_card, served_policy

ROOT = Path(__file__).parent.parent.parent
PASSAGES = [
    Passage(0, 0, "Karn Velith", "Karn Velith was born in Tolmar near the river city.", "train"),
    Passage(1, 1, "Tolmar", "Tolmar was founded in 1208.", "test"),
]
INSTRUCTION, QUESTION = "Fill in each [mask].", "Answer the question."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with an index, a tokenizer, the wording of its tasks, one evaluation, and a trained stage `dapo`."""
    workdir = serving.workdir_of(tmp_path_factory.mktemp("run") / "w", PASSAGES)
    cfg, params, _ = policy_server.tiny_policy(workdir / "source")
    tiny_published.qwen(workdir / "data" / "tokenizer", thinking=False)
    write_json(workdir / "data" / "annotated" / "tasks.json", {
        "chat": "auto", "system": "Be brief.", "instruction": INSTRUCTION, "question_instruction": QUESTION,
        "instruction_place": "before",
    })  # fmt: skip
    write_json(workdir / "data" / "manifest.json", {
        "articles": 2, "passages": 2, "examples": {"train": {"ramp_1": 5}}, "source": {"path": "/secret/wiki.xml.bz2"},
    })  # fmt: skip
    scores = {"recall": 0.5, "recall_se": 0.1, "em": 0.25, "f1": 0.4, "episodes": 20}
    write_json(workdir / "evaluate" / "dapo" / "scores.json", {"ramp_1": scores})
    export.save_pretrained(workdir / "start", cfg, params)
    export.copy_companions(workdir / "source" / "hf", workdir / "start")
    saver = Checkpointer(workdir / "dapo" / "checkpoints", background=False)
    saver.save(3, {"params": params}, {}, {})
    saver.close()
    settings = {
        "pretrained": str(workdir / "start"), "search": {"hits": 2}, "tools": {"search": "", "snippet_words": 0},
        "episode": {"turns": 2, "turn_tokens": 12, "observation_tokens": 48, "total_tokens": 200, "deadline_steps": 0},
        "dapo": {"iterations": 3},
    }  # fmt: skip
    settings_history.Stage(workdir / "dapo", "dapo", settings, dataclasses.asdict(cfg)).begin(0)
    return workdir


@pytest.fixture(scope="module")
def exported(run):
    conversion.to_published(run / "dapo", run / "exports" / "mine")
    return run / "exports" / "mine"


def test_a_stage_is_served_as_it_was_trained(run):
    opened = served_policy.open_policy(run / "dapo", policy_server.one_device())
    settings = opened.agent(None, "all", "")
    assert (settings.limits.turns, settings.limits.total_tokens, settings.hits) == (2, 200, 2)
    template = open_chat_template(opened.tokenizer, "auto", "Be brief.")
    assert settings.prompt_of("Who?") == template.encode(opened.tokenizer, f"{QUESTION}\n\nWho?")
    assert settings.prompt_of("A [mask].") == template.encode(opened.tokenizer, f"{INSTRUCTION}\n\nA [mask].")
    engine = opened.engine(2, 2)
    assert engine.settings.total_tokens == 200
    engine.close()


def test_an_export_says_what_it_holds_and_is_served_alike(run, exported):
    card = (exported / "README.md").read_text()
    assert "| dapo | ramp_1 | 0.500 ± 0.100 | 0.250 | 0.400 | 20 |" in card and "checkpoint 3" in card
    assert "wiki.xml.bz2" in card and "/secret" not in card and str(run) not in card
    assert INSTRUCTION in card and "Be brief." in card and "--policy=mine" in card
    mesh = policy_server.one_device()
    stage, folder = (served_policy.open_policy(one, mesh) for one in (run / "dapo", exported))
    jax.tree.map(np.testing.assert_array_equal, stage.params, folder.params)
    ours, theirs = stage.agent(None, "all", ""), folder.agent(run, "all", "")
    assert (ours.limits, ours.hits, ours.tools) == (theirs.limits, theirs.hits, theirs.tools)
    assert ours.prompt_of("A [mask].") == theirs.prompt_of("A [mask].")
    talk = [("user", "Who?")]
    assert stage.chat_prompt()(talk) == folder.chat_prompt()(talk)
    with pytest.raises(ValueError, match="--workdir=W"):
        folder.agent(None, "all", "")
    with pytest.raises(FileNotFoundError, match="index/validation does not exist"):
        folder.agent(run, "validation", "")


def test_an_export_names_no_program():
    """Exports come from anywhere: opening one runs none of its commands and asks none of its servers."""
    settings = served_policy._defaults()
    before = settings.to_dict()
    said = {
        "episode": {"turns": 3}, "search": {"hits": 2, "url": "http://stranger.example"}, "pretrained": "/etc",
        "tools": {"search": "mcp:run:sh -c evil", "more": ["calc=evil.py:Tool"], "visit": "article"},
    }  # fmt: skip
    served_policy._take_exported(settings, said, Path("masksearch.json"))
    before["episode"]["turns"], before["search"]["hits"], before["tools"]["visit"] = 3, 2, "article"
    assert settings.to_dict() == before
    for bad in ({"tools": {"visit": "mcp:run:sh"}}, {"episode": {"turns": "3"}}, {"search": {"hits": -1}}):
        with pytest.raises(ValueError, match=r"masksearch.json: .*; export the policy again"):
            served_policy._take_exported(served_policy._defaults(), bad, Path("masksearch.json"))
    assert model_card._model_name("/home/me/hub/models--Org--A-1B/snapshots/abc") == "Org/A-1B@abc"
    assert model_card._model_name("models/a") == "a"
    assert model_card._own_tools({"search": "mine.py:find", "visit": "", "more": ["calc=mine.py:Tool"]}) == ["calc"]
    assert model_card._own_tools({"visit": "article"}) == [] and model_card._own_tools({"visit": "a:b"}) == ["visit"]


def test_other_folders(run, tmp_path):
    mesh = policy_server.one_device()
    with pytest.raises(FileNotFoundError, match="has to be the folder of a trained stage"):
        served_policy.open_policy(tmp_path, mesh)
    published = served_policy.open_policy(run / "start", mesh)
    assert published.wording is None and not published.trained
    there = served_policy.open_policy(run / "start", mesh, run)  # a model that was never trained, over this run's data
    assert there.agent(run, "all", "").prompt_of("Who?")


@pytest.mark.parametrize("said", [{"max_position_embeddings": 96}, {"text_config": {"max_position_embeddings": 96}}])
def test_a_model_is_asked_for_no_more_positions_than_it_has(run, exported, monkeypatch, said):
    opened = served_policy.open_policy(exported, policy_server.one_device())
    monkeypatch.setattr(served_policy.json_files, "read_json_object", lambda *_, **__: said)
    engine = opened.engine(1, 2)
    assert engine.settings.total_tokens == 96  # the episode has 200
    engine.close()
    with pytest.raises(ValueError, match="^total_tokens=97: .*config.json says max_position_embeddings=96"):
        opened.engine(1, 2, 97)


def test_a_question_in_the_terminal(run, capsys):
    asking.run("Where was Karn Velith born?", run / "dapo", None, "all", "", 0.0)
    said = capsys.readouterr().out
    assert said.startswith("turn 1") and re.search(r"^answer ", said, re.M) and "\x1b" not in said
    with pytest.raises(ValueError, match="the question is empty"):
        asking.run(" ", run / "dapo", None, "all", "", 0.0)


def test_the_page_of_a_question(capsys):
    from masksearch_jax.retrieval.interface import Hit
    from masksearch_jax.rollout.trajectory import StopReason, Turn
    from masksearch_jax.serving.search_loop import AgentReply, AgentTurn

    hit = Hit(0, 0, "Karn\x1b[31m", "born " * 100, 1.0)
    text = "<think> where</think><search> Karn</search>"
    searched = AgentTurn(Turn("search", 0, 1, text, "Karn", observation="<information> Karn: born"), (hit,))
    page = asking._Page(coloured=True)
    page.show_turn(searched)
    page.show_end(AgentReply("Tolmar", StopReason.ANSWER, (searched,), 3, 4))
    said = capsys.readouterr().out
    assert "\x1b[36msearch: Karn\x1b[0m" in said and "\x1b[1;32mTolmar\x1b[0m" in said and "[1] Karn�[31m" in said


def test_the_command_serves_until_it_is_told_to_stop(run, exported):
    command = [sys.executable, "-m", "masksearch_jax.serve", f"--policy={exported}", f"--workdir={run}", "--agent"]
    command += ["--config.port=0", "--config.slots=2", "--config.warm_up=False"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        lines = iter(server.stderr.readline, "")
        ready = next(line for line in lines if line.startswith("serve: ready"))
        client = openai.OpenAI(base_url=re.search(r"http://\S+", ready)[0], api_key="none", timeout=300)
        reply = client.chat.completions.create(model="mine", messages=[{"role": "user", "content": "Who?"}])
        assert reply.model_extra["masksearch"]["turns"]
        assert client.completions.create(model="mine", prompt="Karn", max_tokens=3).usage.completion_tokens >= 1
    finally:
        server.send_signal(signal.SIGTERM)
        rest = server.communicate(timeout=60)[1]
    assert server.returncode == 0 and "stopped" in rest


@pytest.mark.slow
def test_greedy_text_is_that_of_transformers(exported):
    """Runs where TRANSFORMERS_PYTHON names the Python of an environment with transformers."""
    python = os.environ.get("TRANSFORMERS_PYTHON")
    if not python:
        pytest.skip("TRANSFORMERS_PYTHON is not set: no transformers on this machine")
    talks = [
        [{"role": "user", "content": "Who founded Tolmar?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "naïve São 日本"},
         {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}],
    ]  # fmt: skip
    script = """
import json, sys, transformers
folder, talks = sys.argv[1], json.loads(sys.argv[2])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
for talk in talks:
    given = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**given, do_sample=False, max_new_tokens=24)[0, given["input_ids"].shape[1]:]
    print(json.dumps(tokenizer.decode(ids, skip_special_tokens=True)))
"""
    done = subprocess.run(
        [python, "-c", script, str(exported), json.dumps(talks)], capture_output=True, text=True, check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    opened = served_policy.open_policy(exported, policy_server.one_device())
    engine = opened.engine(2, 4)
    policy = policy_server.served(engine, opened.tokenizer)
    with policy_server.serving(policy) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        for talk, text in zip(talks, expected, strict=True):
            reply = client.chat.completions.create(model="tiny", messages=talk, temperature=0, max_tokens=24)
            assert reply.choices[0].message.content == text
    engine.close()
