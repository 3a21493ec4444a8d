"""The examples of docs/extending.md and docs/data_formats.md run."""

import importlib.util
import json
import re
import sys
import threading
from pathlib import Path

import doc_pages
import numpy as np
import pytest
import tiny_published

import configs.dapo
from masksearch_jax.data import records
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.service import remote_settings, search_client
from masksearch_jax.rl.rewards import Reward
from masksearch_jax.rollout.trajectory import StopReason, Trajectory, Turn
from masksearch_jax.workflows import own_code, tools

PAGE = doc_pages.DOCS / "extending.md"
_TINY = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": True, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture
def names(tmp_path, monkeypatch, capsys):
    """What the Python blocks of the page define, run in their order in an empty folder."""
    monkeypatch.chdir(tmp_path)
    tiny_published.qwen(Path("HF_FOLDER"), thinking=False)
    Path("HF_FOLDER/config.json").write_text(json.dumps(_TINY))
    found: dict = {}
    for block in doc_pages.blocks(PAGE):
        if block.language == "python":
            if named := re.match(r"# (\w+\.py)\n", block.text):
                Path(named[1]).write_text(block.text)
            if named is None or named[1] != "my_mcp.py":  # which needs a package of its own
                exec(compile(block.text, str(block), "exec"), found)
    found["printed"] = capsys.readouterr().out
    yield found
    found["server"].server_close()


def test_corpus_questions_and_model(names):
    assert "Tolmar 13 words" in names["printed"] and "2 layers of 32 with 2 heads, 64 tokens" in names["printed"]
    assert "20,640 parameters" in names["printed"]
    assert "row-0 ['Tolmar'] ['Karn Velith']\nrow-1 ['Brad', 'the Brad', 'river Brad'] []" in names["printed"]
    assert "[0.0, 1.0]" in names["printed"]


def test_prompt(names):
    shown = names["printed"]
    assert f"<|im_start|>system\n{names['system']}<|im_end|>\n<|im_start|>user\n" in shown
    assert 'born in [mask] in 1208. Which words are missing in "Karn Velith was born in [mask] in 1208."?<|im_' in shown
    assert f"<|im_start|>assistant\n \n{len(names['ids'])} tokens" in shown
    # The command asks preparation for the same.
    (command,) = [b.text for b in doc_pages.blocks(PAGE) if "--config.prepare.tasks.system" in b.text]
    assert names["system"] in command and names["instruction"] in command


def test_no_example_is_longer_than_a_screen():
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert not {text.split("\n")[0]: lines for text in sections if (lines := text.count("\n")) > 50}


def _searcher(tmp_path, **settings):
    """Return what a run with these settings of `tools` calls, over no passages."""
    cfg = configs.dapo.get_config()
    cfg.tools.update(settings)
    cfg.search.update({"exclusion": "none", "fallback": "none", "ready_s": 60.0, "timeout_s": 60.0, "deadline_s": 60.0})
    return tools.searcher_of(cfg, "train", tmp_path, None, search_client.NoHits)


def test_tools_in_a_file(names, tmp_path):
    searcher = _searcher(tmp_path, search="my_tool.py:WordSearch", more=("years=my_tool.py:years",))
    found = searcher.search([Query("harbour of Vesh"), Query("1208 1240", tool="years")], 1)
    assert [[(hit.title, hit.text) for hit in hits] for hits in found] == [
        [("Vesh", "The harbour of Vesh was built in 1240.")], [("", "32 years")],
    ]  # fmt: skip


def test_our_clients_call_the_server(names, tmp_path):
    server = names["server"]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        settings = remote_settings.RemoteSettings(f"{url}/retrieve", 5.0, 5.0, 0, 1, 1.0, 5.0, "none")
        for client in (
            _searcher(tmp_path, search=f"{url}/find"),
            search_client.connect(settings, "train", tmp_path, None, "none", lambda: None),
        ):
            (hits,) = client.search([Query("harbour of Vesh")], 1)
            assert [(hit.title, hit.text) for hit in hits] == [("Vesh", "The harbour of Vesh was built in 1240.")]
    finally:
        server.shutdown()
        thread.join()


def test_mcp_server(names, tmp_path):
    pytest.importorskip("mcp", reason="pip install -c launch/constraints.txt -e '.[mcp]'")
    searcher = _searcher(tmp_path, more=(f"weekday=mcp:weekday:{sys.executable} my_mcp.py",))
    (hits,) = searcher.search([Query("2026-11-30", tool="weekday")], 1)
    assert [hit.text for hit in hits] == ["Monday"]
    searcher.tools["weekday"]._call.close()


def test_reward(names):
    section = configs.dapo.dapo().reward
    section.update({"file": "my_reward.py:score", "weights": ("brevity=0.2", "variety=0.1")})
    own = own_code.load_reward(section)
    turns = tuple(Turn("search", 0, 0, "", query=query) for query in ("Karn", "karn", "Vesh"))
    blank = np.zeros(0)
    one = Trajectory(
        "1", 0, 0, blank, blank, blank, blank, 0, (*turns, Turn("answer", 0, 0, "")), StopReason.ANSWER, "Tolmar"
    )
    task = records.Task("1", "ramp", "train", [1], [2], "spans", [["Tolmar"]], ["name"], "in [mask]", "", "", 0, 0)
    found = own.add(Reward(1.0, 1.0, 0.0, 1.1, 1.1), task, one)
    assert found.parts == {"brevity": 1.0, "variety": pytest.approx(2 / 3)}
    assert found.total == pytest.approx(1.1 + 0.2 + 0.1 * 2 / 3)


def test_benchmark(names, tmp_path, monkeypatch):
    Path("trivia.jsonl").write_text(json.dumps({"id": "1", "question": "Who?", "answers": ["Karn", "Karn Velith"]}))
    (question,) = names["read_trivia"]("trivia.jsonl")
    assert question.answers == ["Karn", "Karn Velith"]
    Path("bad.jsonl").write_text(json.dumps({"id": "1", "question": ""}))
    with pytest.raises(ValueError, match=r"bad.jsonl, entry 0: field 'question'"):
        names["read_trivia"]("bad.jsonl")
    from masksearch_jax.evals import open_domain

    monkeypatch.setattr(open_domain, "read_trivia", names["read_trivia"], raising=False)
    monkeypatch.setattr(open_domain, "TRIVIA", names["SOURCE"], raising=False)
    module = _patched("evals/benchmarks.py", tmp_path)
    assert [one.id for one in module.read("trivia", "trivia.jsonl")] == ["1"]


def test_reading_tasks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = records.Task("1", "ramp", "train", [1], [2], "spans", [["Tolmar"]], ["name"], "born in [mask]", "", "", 0, 0)
    records.write("W/data/tasks/train/ramp_1/epoch_0.array_record", [task])
    (block,) = [one for one in doc_pages.blocks(doc_pages.DOCS / "data_formats.md") if one.language == "python"]
    exec(compile(block.text, str(block), "exec"), {})
    assert capsys.readouterr().out == "born in [mask] [['Tolmar']]\n"


def _patched(path: str, tmp_path: Path):
    """Return the module of a copy of masksearch_jax/`path` to which the page's diff is applied."""
    (diff,) = [b.text for b in doc_pages.blocks(PAGE) if b.language == "diff" and f"a/masksearch_jax/{path}" in b.text]
    text = (doc_pages.ROOT / "masksearch_jax" / path).read_text()
    body = diff.split("\n", 2)[2]
    for hunk in re.split(r"^@@.*\n", body, flags=re.M):
        lines = hunk.rstrip("\n").split("\n")
        before = "\n".join(line[1:] for line in lines if line[:1] in (" ", "-")) + "\n"
        after = "\n".join(line[1:] for line in lines if line[:1] in (" ", "+")) + "\n"
        assert text.count(before) == 1, f"the diff of {path} does not apply:\n{before}"
        text = text.replace(before, after)
    copy = tmp_path / Path(path).name
    copy.write_text(text)
    spec = importlib.util.spec_from_file_location(f"patched_{copy.stem}", copy)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module
