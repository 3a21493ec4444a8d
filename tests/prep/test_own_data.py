"""Search-R1's data as it is: its corpus and its training questions, written from real articles, prepared and taught."""

import gzip
import json

import pytest

from configs import prepare as page
from configs import stage2_sft
from masksearch_jax.data import records
from masksearch_jax.evals import corpora
from masksearch_jax.workflows import data_preparation, synthesis_stage
from masksearch_jax.workflows.context import RunContext

pytestmark = pytest.mark.slow


def written(data_dir, folder):
    """The articles of HotpotQA's sample as wiki-18.jsonl.gz, its questions as train.parquet; half without articles."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    number = 0
    with gzip.open(folder / "wiki-18.jsonl.gz", "wt", encoding="utf-8") as file:
        for title, text in corpora.read_corpus(data_dir / "hotpotqa_100_corpus.json.gz"):
            words = text.split()
            for start in range(0, len(words), 100):
                contents = f'"{title}"\n' + " ".join(words[start : start + 100])
                file.write(json.dumps({"id": str(number), "contents": contents}) + "\n")
                number += 1
    rows = []
    for place, entry in enumerate(json.loads(gzip.decompress((data_dir / "hotpotqa_100.json.gz").read_bytes()))):
        facts = entry["supporting_facts"] if place % 2 else []
        rows.append({
            "id": f"train_{place}",
            "data_source": "hotpotqa",
            "prompt": [{"role": "user", "content": f"Answer the question. Question: {entry['question']}\n"}],
            "ability": "fact-reasoning",
            "reward_model": {"style": "rule", "ground_truth": {"target": [entry["answer"]]}},
            "metadata": {"supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]}},
        })
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")


def test_corpus_and_questions_of_search_r1(data_dir, tmp_path):
    written(data_dir, tmp_path)
    config = page.get_config()
    config.dump, config.questions = str(tmp_path / "wiki-18.jsonl.gz"), str(tmp_path / "train.parquet")
    config.tasks.epochs, config.indices, config.retrieval.dims = 1, ("train", "all"), 2048
    manifest = data_preparation.run(config, tmp_path / "w")
    assert manifest["articles"] == 994 and manifest["source"]["bytes"] == (tmp_path / "wiki-18.jsonl.gz").stat().st_size
    report = json.loads((tmp_path / "w" / "data" / "report.json").read_text())["questions"]
    assert sum(counts["by_articles"] for counts in report.values()) == 50
    assert sum(sum(counts.values()) for counts in report.values()) == 100
    passages = list(records.read(tmp_path / "w" / "data" / "passages.array_record", records.Passage))
    assert all(passage.text[-1] in ".!?\"')”’" for passage in passages)  # whole sentences, joined over the cuts

    training = stage2_sft.get_config("dump")
    made = synthesis_stage.run(training, tmp_path / "w", RunContext(training, tmp_path / "w").searcher("train"))
    taught = made["tasks"]["qa"]["questions"]
    assert set(taught) == {"by_articles", "by_answer"} and all(counts["accepted"] for counts in taught.values())
    assert {way: sum(counts.values()) for way, counts in taught.items()} == {
        "by_articles": report["train"]["by_articles"],
        "by_answer": report["train"]["by_answer"] + report["train"].get("left_to_rl", 0),
    }
    assert made["tasks"]["qa"]["outcomes"].get("no_articles", 0) == report["train"].get("left_to_rl", 0)
    print(json.dumps({"report": report, "taught": made["tasks"]["qa"]}))
