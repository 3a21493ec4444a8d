"""The examples of docs/extending.md and docs/data_formats.md run."""

import importlib.util
import json
import re
import sys
import threading
from pathlib import Path

import doc_pages
import pytest

from masksearch_jax.data import records
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.service import remote_settings, search_client

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
    Path("HF_FOLDER").mkdir()
    Path("HF_FOLDER/config.json").write_text(json.dumps(_TINY))
    found: dict = {}
    for block in doc_pages.blocks(PAGE):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), found)
    found["printed"] = capsys.readouterr().out
    yield found
    found["server"].server_close()


def test_corpus_questions_model_and_tool(names):
    assert "Tolmar 13 words" in names["printed"] and "2 layers of 32 with 2 heads, 64 tokens" in names["printed"]
    assert "row-0 ['Tolmar'] ['Karn Velith']\nrow-1 ['Brad', 'the Brad', 'river Brad'] []" in names["printed"]
    assert "[0.0, 1.0]" in names["printed"]
    found = names["tool"].search([Query("birthplace of Karn Velith"), Query("birthplace", passage_id=0)], k=1)
    assert [hits[0].title for hits in found] == ["Tolmar", "Vesh"]  # the source is excluded


def test_our_client_searches_the_server(names, tmp_path):
    server = names["server"]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/retrieve"
        settings = remote_settings.RemoteSettings(url, 5.0, 5.0, 0, 1, 1.0, 5.0, "none")
        client = search_client.connect(settings, "train", tmp_path, None, "none", lambda: None)
        (hits,) = client.search([Query("harbour of Vesh")], 1)
        assert [(hit.title, hit.text) for hit in hits] == [("Vesh", "The harbour of Vesh was built in 1240.")]
    finally:
        server.shutdown()
        thread.join()


def test_reward(tmp_path):
    module = _patched("rl/rewards.py", tmp_path)
    config = module.RewardConfig(answer="precision")
    measure = module._measure(config)
    assert measure("Tolmar or Vesh", ["Tolmar"]) == pytest.approx(1 / 3) and measure("", ["Tolmar"]) == 0.0
    with pytest.raises(ValueError, match="is none of"):
        module.RewardConfig(answer="luck")


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
