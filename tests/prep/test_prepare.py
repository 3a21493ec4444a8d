"""The whole preparation on a small toy, what it refuses, and the masks on real Wikipedia text."""

import dataclasses
import functools
import hashlib
import itertools
import json
from pathlib import Path

import pytest
import seqio
import tiny_published
from absl import flags
from ml_collections import config_flags

from configs import prepare as page
from masksearch_jax.data import records, token_permutation
from masksearch_jax.evals import benchmarks
from masksearch_jax.prep import manifest, preparation
from masksearch_jax.prep.spans import annotated_passages, candidates
from masksearch_jax.prep.splits import Splits
from masksearch_jax.prep.tasks import registry
from masksearch_jax.prep.wiki import dump_files, dump_reader
from masksearch_jax.retrieval.interface import Query
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.tool import SearchTool
from masksearch_jax.text import tokenizer
from masksearch_jax.text.published_tokenizer import PublishedTokenizer
from masksearch_jax.text.tokenizer import Tokenizer
from masksearch_jax.workflows import data_preparation

# Search-only articles, of words that stand nowhere else: whatever reads them shows it.
SEARCHED = str(Path(__file__).with_name("searched.json"))


def small():
    config = page.get_config()
    config.entities = 240
    config.search_only = SEARCHED
    config.tasks.epochs = 2
    config.retrieval.index = "exact"
    config.retrieval.dims = 256
    return config


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toy")
    (workdir / "data.partial").mkdir()
    (workdir / "data.partial" / "left_by_a_killed_run").touch()
    with pytest.MonkeyPatch.context() as patch:
        # Two tasks show it all, in half the time; test_export has four, as has the slow test below.
        patch.setattr(registry, "MASKS", (1, 2))
        patch.setattr(registry, "MIXTURES", {"ramp_1_2": (1, 2)})
        return workdir, data_preparation.run(small(), workdir)


def passages_of(workdir):
    return list(records.read(workdir / "data" / "passages.array_record", records.Passage))


def tasks_of(workdir, split, task, epoch=0):
    path = workdir / "data" / "tasks" / split / task / f"epoch_{epoch}.array_record"
    return list(records.read(path, records.Task))


def test_manifest_lists_what_is_there(toy):
    workdir, written = toy
    data = workdir / "data"
    assert json.loads((data / "manifest.json").read_text()) == written
    assert written["articles"] == 240 and written["seed"] == 0 and written["settings"]["entities"] == 240
    files = {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(written["files"]) == files and [path.name for path in workdir.iterdir()] == ["data"]
    for name in ("toy.xml.bz2", "tokenizer.model", "augment.json", "report.json", "index/train/index.json"):
        assert written["files"][name]["sha256"] == hashlib.sha256((data / name).read_bytes()).hexdigest()
    assert written["source"]["sha256"] == written["files"]["toy.xml.bz2"]["sha256"]
    assert written["tokenizer"]["sha256"] == written["files"]["tokenizer.model"]["sha256"]
    for split, by_task in written["examples"].items():
        for task, counts in by_task.items():
            assert counts == [len(tasks_of(workdir, split, task, epoch)) for epoch in range(len(counts))]
    assert len(written["examples"]["train"]["ramp_1"]) == 2 and len(written["examples"]["test"]["ramp_1"]) == 1


def test_report_agrees_with_the_files(toy):
    workdir, written = toy
    report = json.loads((workdir / "data" / "report.json").read_text())
    found = passages_of(workdir)
    assert [p.id for p in found] == list(range(len(found))) and report["articles"] == 240
    splits = ("train", "validation", "test", "newer", "search_only")
    assert report["passages"] == {s: sum(p.split == s for p in found) for s in splits}
    assert report["examples"] == written["examples"] and sum(report["spans"].values()) > 2 * len(found)
    assert report["wikitext_mb_per_second"] > 0 and set(report["indices"]) == {"train", "validation", "all", "fresh"}
    assert report["indices"]["train"]["passages"] == report["passages"]["train"]
    assert report["indices"]["validation"]["passages"] == report["passages"]["train"] + report["passages"]["validation"]
    assert report["indices"]["all"]["passages"] == len(found) - report["passages"]["newer"]


def test_newer_articles_replace_the_old_ones_in_one_index_alone(toy):
    workdir, written = toy
    found = passages_of(workdir)
    newer, old = [p for p in found if p.split == "newer"], [p for p in found if p.split != "newer"]
    first_searched = next(p.id for p in found if p.split == "search_only")
    old, searched = old[: first_searched - len(newer)], old[first_searched - len(newer) :]
    assert newer and found == old + newer + searched  # ids of the others are what they are without these
    renewed = {p.title: p.article_id for p in newer}
    assert all(renewed[p.title] == p.article_id and p.split == "test" for p in old if p.title in renewed)
    store = PassageStore(workdir / "data" / "passages.array_record")
    fresh = list(data_preparation.SplitPassages(store, data_preparation.FRESH["fresh"]))
    assert fresh == [p for p in old if p.title not in renewed] + newer + searched
    assert json.loads((workdir / "data" / "report.json").read_text())["indices"]["fresh"]["passages"] == len(fresh)
    # Nothing is masked in them.
    first = newer[0].id
    for split, by_task in written["examples"].items():
        assert all(t.passage_id < first for task in by_task for t in tasks_of(workdir, split, task))


def test_search_only_articles_are_found_and_nothing_else(toy):
    workdir, written = toy
    data, found = workdir / "data", passages_of(workdir)
    searched = [p for p in found if p.split == "search_only"]
    assert len(searched) == 4 and written["search_only"]["sha256"]
    assert not {p.article_id for p in searched} & {
        p.article_id for p in found if p.split not in ("search_only", "newer")
    }
    tool = {
        index: SearchTool.load(data / "index" / index, PassageStore(data / "passages.array_record"), "none")
        for index in ("train", "validation", "all", "fresh")
    }
    titles = {
        index: [hit.title for hit in one.search([Query("Quixjaw 2 zqfort")], 2)[0]] for index, one in tool.items()
    }
    assert "Quixjaw 2" in titles["all"] and "Quixjaw 2" in titles["fresh"]
    assert not any("Quixjaw" in title for index in ("train", "validation") for title in titles[index])
    # No task masks them, and no token was made of them.
    read = [
        task
        for split, by_task in written["examples"].items()
        for task in by_task
        for task in tasks_of(workdir, split, task)
    ]
    assert read and not {task.passage_id for task in read} & {p.id for p in searched}
    assert not any("Quixjaw" in task.text for task in read)
    assert not any(
        "zq" in piece
        for piece in map(Tokenizer(data / "tokenizer.model").token, range(written["tokenizer"]["vocab_size"]))
    )


def test_benchmarks_are_test_questions(toy):
    workdir, written = toy
    made = {name for name in written["examples"]["test"] if name.startswith("qa_")}
    assert made == {f"qa_{name}" for name in ("hotpotqa", "fanoutqa", "musique", "two_wiki", "bamboogle", "freshqa")}
    assert not any(name.startswith("qa_") for split in ("train", "validation") for name in written["examples"][split])
    for name, source in written["benchmarks"].items():
        assert written["files"][source["path"]]["sha256"] == source["sha256"]
        tested = tasks_of(workdir, "test", f"qa_{name}")
        assert 0 < len(tested) <= 100 and {(t.benchmark, t.split, t.kind) for t in tested} == {(name, "test", "qa")}
        assert len(tested) == len(benchmarks.read(name, workdir / "data" / source["path"]))
    assert written["newer"]["path"] == "toy.newer.xml.bz2"


def test_held_out_names_are_nowhere_in_training(toy):
    workdir, _ = toy
    titles = json.loads((workdir / "data" / "toy.splits.json").read_text())
    held_out = {title for title, split in titles.items() if split == "test"}
    train = [p for p in passages_of(workdir) if p.split == "train"]
    assert held_out and not any(title in p.title + " " + p.text for p in train for title in held_out)
    questions = tasks_of(workdir, "train", "qa")
    assert questions and not any(title in q.text + q.answers[0][0] for q in questions for title in held_out)
    # A question is as held-out as the most held-out article it rests on: the splits share none.
    asked = {split: tasks_of(workdir, split, "qa") for split in ("train", "validation", "test")}
    for split, found in asked.items():
        assert found and {titles[title] for q in found for title in q.supporting} == {split}
    assert len({q.text for found in asked.values() for q in found}) == sum(map(len, asked.values()))
    assert all(p.split in (titles[p.title], "newer") for p in passages_of(workdir) if p.split != "search_only")
    # The tokenizer is a function of training text alone.
    texts = (f"{p.title}: {p.text}" for p in train)
    again = tokenizer.train(texts, workdir / "again.model", preparation.TOY_VOCABULARY, digit_pairs=True)
    assert again.fingerprint == Tokenizer(workdir / "data" / "tokenizer.model").fingerprint


def test_answers_can_be_copied_whole_and_permuted(toy):
    workdir, _ = toy
    groups = json.loads((workdir / "data" / "augment.json").read_text())["groups"]
    assert all(len(group) > 1 for group in groups)
    ids = [i for group in groups for member in group for i in (member if isinstance(member, list) else [member])]
    assert len(set(ids)) == len(ids)
    tok = Tokenizer(workdir / "data" / "tokenizer.model")
    first, second = ({tok.token(i) for i in group} for group in groups[-2:])
    titles = [p.title.split() for p in passages_of(workdir) if p.split == "train"]
    assert all("▁" + a in first and "▁" + b in second for a, b in titles)


def test_tasks_can_be_opened_by_name(toy):
    workdir, written = toy
    settings = registry.register(workdir / "data")
    assert settings.passages["train"] == written["examples"]["train"]["ramp_1"][0]
    dataset = seqio.get_mixture_or_task("ramp_2").get_dataset(None, split="test", shuffle=False)
    assert [e["inputs"].tolist() for e in dataset.as_numpy_iterator()] == [
        t.prompt for t in tasks_of(workdir, "test", "ramp_2")
    ]
    assert len(seqio.get_mixture_or_task("qa_benchmarks").tasks) == 6


def test_a_second_run_does_nothing_and_other_settings_are_refused(toy, monkeypatch, capsys):
    workdir, written = toy
    monkeypatch.setattr(preparation, "run", lambda *_: pytest.fail("prepared again"))
    assert data_preparation.run(small(), workdir) == written
    assert "already prepared" in capsys.readouterr().out
    other = small()
    other.passages.words = 50
    with pytest.raises(ValueError, match=r"passages\.words was 100, is 50.*--config\.overwrite=True"):
        data_preparation.run(other, workdir)


def test_a_changed_dump_is_noticed(tmp_path):
    dump = tmp_path / "dump.xml"
    dump.write_text("<mediawiki>")
    (tmp_path / "data").mkdir()
    manifest.write(tmp_path / "data", {"settings": {"dump": str(dump)}, "source": {"path": str(dump), "bytes": 11}}, [])
    assert manifest.is_current(tmp_path / "data", {"dump": str(dump)})
    dump.write_text("<mediawiki>..")
    with pytest.raises(ValueError, match="had 11 bytes, has 13"):
        manifest.is_current(tmp_path / "data", {"dump": str(dump)})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dump", "/nowhere.xml", "dump='/nowhere.xml': no such file"),
        ("questions", "/nowhere.json", "questions='/nowhere.json': no such file"),
        ("questions", __file__, "test_prepare.py is not JSON"),
        ("splits", "/nowhere.json", "splits=/nowhere.json: no such file"),
        ("benchmarks.musique", "/nowhere.jsonl", "/nowhere.jsonl does not exist; run download_data.sh"),
        (
            "search_only",
            "/nowhere.json",
            "search_only='/nowhere.json': no such file; name a MediaWiki export or a corpus",
        ),
        ("newer_dump", "/nowhere.xml", "newer_dump='/nowhere.xml': no such file"),
        ("shares.train", 0.9, "shares="),
        ("passages.minimum", 101, "passages.minimum=101 exceeds"),
        ("tokenizer.vocab_size", 100, "tokenizer.vocab_size=100"),
        ("tasks.answer_form", "word", "answer_form='word'"),
        ("tasks.epochs", 0, "tasks.epochs=0"),
        ("tasks.span_weights.date", -1.0, "tasks.span_weights.date=-1"),
        ("indices", ("train", "some"), "'some'"),
        ("retrieval.encoder", "word2vec", "retrieval.encoder='word2vec' is none of"),
        ("tokenizer_dir", "/nowhere", "/nowhere/tokenizer.json does not exist"),
        ("tasks.chat", "auto", "tasks.chat='auto'.*tokenizer_dir"),
        ("tasks.chat", "qwen2.5", "tasks.chat='qwen2.5': it has to be '' for a base model, 'auto'"),
        ("tasks.chat_variables", ("enable_thinking=False",), "={'enable_thinking': False}: a chat template needs"),
        ("tasks.chat_variables", ("enable_thinking",), "'enable_thinking' is no name=value"),
        ("tasks.system", "Be short.", "tasks.system='Be short.'.*tokenizer_dir"),
    ],
)
def test_settings_are_refused_before_any_work(tmp_path, monkeypatch, name, value, message):
    monkeypatch.setattr(preparation, "run", lambda *_: pytest.fail("started to work"))
    config = small()
    config.update_from_flattened_dict({name: value})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data_preparation.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_for_a_published_model(tmp_path, monkeypatch):
    """Its tokenizer and chat template, nothing to permute, all of it in the manifest; a wrong template is refused."""
    monkeypatch.setattr(registry, "MASKS", (1,))
    monkeypatch.setattr(registry, "MIXTURES", {})
    config = small()
    config.entities, config.indices, config.toy_benchmarks = 60, ("train",), 0
    config.tokenizer_dir = str(tiny_published.qwen(tmp_path / "checkpoint"))
    config.tasks.chat, config.tasks.system = str(tmp_path / "bad.jinja"), "Use <search>."
    with pytest.raises(FileNotFoundError, match="bad.jinja does not exist; name a file of a Jinja template"):
        data_preparation.run(config, tmp_path / "w")
    Path(config.tasks.chat).write_text("{% if %}")
    with pytest.raises(ValueError, match="bad.jinja, line 1: the chat template is no Jinja"):
        data_preparation.run(config, tmp_path / "w")
    config.tasks.chat = "auto"
    config.tasks.chat_variables = ("enable_thinking=False",)
    written = data_preparation.run(config, tmp_path / "w")
    data = tmp_path / "w" / "data"
    tok = tokenizer.load(data)
    assert tok.fingerprint == PublishedTokenizer(config.tokenizer_dir).fingerprint == written["tokenizer"]["sha256"]
    assert {f"tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_config.json")} <= set(written["files"])
    assert not (data / "tokenizer.model").exists() and not (data / "benchmarks").exists()
    assert [p.name for p in (data / "index").iterdir()] == ["train"] and written["newer"] is None
    assert token_permutation.load(data / "augment.json", tok.vocab_size) is None
    for task in tasks_of(tmp_path / "w", "train", "ramp_1"):
        assert tok.decode(task.prompt) == (
            f"<|im_start|>system\nUse <search>.<|im_end|>\n<|im_start|>user\n{task.text}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        assert tok.decode(task.targets) == f"<answer> {task.answers[0][0]}</answer>"


def test_a_data_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    for overwrite in (False, True):
        config = small()
        config.overwrite = overwrite
        with pytest.raises(ValueError, match="prepare did not make it"):
            data_preparation.run(config, tmp_path)
    assert (tmp_path / "data" / "thesis.tex").exists()


@pytest.mark.parametrize("argument", ["--config.entitys=5", "--config.entities=many", "--config.tasks.epoch=1"])
def test_unknown_and_ill_typed_settings_are_refused(argument, monkeypatch):
    line = ["prepare", f"--config={page.__file__}", argument]
    monkeypatch.setattr("sys.argv", line)  # where config_flags looks for overrides
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    with pytest.raises((AttributeError, flags.IllegalFlagValueError), match="entities|epochs"):
        values(line)


def test_a_benchmark_is_named_on_the_command_line(monkeypatch):
    line = ["prepare", f"--config={page.__file__}", "--config.benchmarks.two_wiki=dev.json"]
    monkeypatch.setattr("sys.argv", line)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    values(line)
    assert values.config.benchmarks["two_wiki"] == "dev.json"
    assert set(values.config.benchmarks) == set(benchmarks.BENCHMARKS)


def test_a_custom_benchmark_has_the_tasks_that_preparation_makes(toy):
    """The same file in `benchmarks.custom` gives the records of the SeqIO task, without TensorFlow."""
    from configs import evaluate
    from masksearch_jax.workflows import custom_benchmark
    from masksearch_jax.workflows.context import RunContext

    workdir, written = toy
    config = evaluate.get_config()
    for name in ("hotpotqa", "musique"):
        config.benchmarks.custom = str(workdir / "data" / written["benchmarks"][name]["path"])
        made, found = tasks_of(workdir, "test", f"qa_{name}"), custom_benchmark.tasks(RunContext(config, workdir))
        same = [dataclasses.replace(t, id=t.id.replace("custom", name), benchmark=name) for t in found]
        assert same == made and len(made) > 50


def test_masks_on_real_text_refill_and_tokenise_alike(data_dir, tmp_path):
    dump = data_dir / "enwiki-shortened.xml.bz2"
    articles = itertools.islice(dump_files.read_articles([dump], False, dump_reader.DumpStats()), 12)
    config = page.get_config()
    splits = Splits("", config.shares, 0)
    found = list(annotated_passages.cut_articles(articles, splits, config.passages, tmp_path / "links.jsonl"))
    records.write(tmp_path / annotated_passages.PASSAGES, found)
    annotation = annotated_passages.Annotation(tmp_path)
    annotation.run(annotated_passages.with_links(tmp_path), functools.partial(candidates.find, rare=None))
    tok = tokenizer.train((p.text for p in found), tmp_path / "tokenizer.model", 2048)
    preparation.task_settings(config, annotation.kept, {}).save(tmp_path / "annotated")
    registry.register(tmp_path, epochs={"train": 1, "validation": 1, "test": 1})
    by_id = {p.id: p for p in found}
    dataset = seqio.get_mixture_or_task("ramp_2").get_dataset(None, split="train", shuffle=False)
    count = multibyte = 0
    for example in dataset.as_numpy_iterator():
        text, masked = by_id[example["id"]].text, example["masked"].decode()
        assert example["inputs"].tolist() == tok.encode(" " + masked)
        for answer in example["answers"]:
            masked = masked.replace("[mask]", answer.decode(), 1)
        assert masked == text and len(set(example["answers"])) == 2
        count, multibyte = count + 1, multibyte + (len(text) != len(text.encode()))
    assert count > 100 and multibyte > 10


def test_a_benchmarks_corpus_is_plain_text(tmp_path):
    """Articles of a corpus: no markup is read into them, and their order gives their ids."""
    sentence = "Tolm [[was]] founded by Vesh {{Pirael}} in 1821."
    texts = {"Tolm": [sentence, "\n It grew over many years."], "Karn Velith": ["He lived there for a while."]}
    (tmp_path / "corpus.json").write_text(json.dumps(texts))
    stats = dump_reader.DumpStats()
    found = list(dump_files.read_articles([tmp_path / "corpus.json"], False, stats))
    assert [(id, title) for id, title, _ in found] == [(0, "Tolm"), (1, "Karn Velith")] and stats.articles == 2
    splits = Splits("", page.shares(1.0, 0.0, 0.0), 0)
    cut = list(annotated_passages.cut_articles(found, splits, page.get_config().passages, tmp_path / "links.jsonl"))
    assert [p.text for p in cut] == [f"{sentence} It grew over many years.", "He lived there for a while."]
    assert {p.split for p in cut} == {"train"}


@pytest.mark.slow
def test_the_real_slice(data_dir, tmp_path):
    config = page.get_config()
    config.dump = str(data_dir / "enwiki-shortened.xml.bz2")
    written = data_preparation.run(config, tmp_path)
    assert written["articles"] == 106
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["redirects"] + report["non_articles"] + report["articles"] == report["pages"] == 206
    assert set(report["spans"]) == set(candidates.KINDS) and report["vocabulary"] == 4096
    for split in ("train", "validation", "test"):
        counts = [sum(report["examples"][split][f"ramp_{masks}"]) for masks in registry.MASKS]
        assert counts == sorted(counts, reverse=True) and counts[-1] > 0
