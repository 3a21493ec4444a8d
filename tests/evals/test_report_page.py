"""The page of a run: what the builders read, and the HTML: whole, self-contained, escaped, the same bytes again."""

import base64
import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from masksearch_jax.evals import runner, sampled
from masksearch_jax.evals.report import curves, episode_samples, html_page, run_page, score_tables, svg_charts
from masksearch_jax.evals.report.run_files import metric_rows
from masksearch_jax.evals.report.sections import Chart, Curve, Page, Section, Table
from masksearch_jax.workflows import reporting

HOSTILE = "<script>alert('x')</script><img src=y onerror=z> & Velith"
VOID = {"meta", "input", "br", "img", "hr", "link"}


@pytest.fixture
def drawing():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")


def row(task: str, recall: float, masks: int = 1, observation: str = "nothing", **other) -> runner.Row:
    turns = [
        {"action": "search", "text": "<think> who was born</think><search> Karn birthplace</search>",
         "query": "Karn birthplace", "passages": [7, 9], "observation": observation, "error": ""},
        {"action": "invalid", "text": "<sea", "query": "", "passages": [], "observation": "", "error": "no action"},
        {"action": "answer", "text": "<answer> Velith</answer>", "query": "", "passages": [], "observation": "",
         "error": ""},
    ]  # fmt: skip
    return runner.Row(
        task_id=task, kind="ramp", masks=masks, span_kinds=["name"] * masks, text="Karn was born in [mask].",
        golds=[["Velith"]] * masks, answer="Velith", spans=["Velith"] * masks, recalls=[recall] * masks,
        f1s=[recall] * masks, ems=[recall] * masks, recall=recall, f1=recall, em=recall, format=1.0,
        hits=[True] * masks, hit=1.0, searches=1, queries=["Karn birthplace"], distinct_queries=1, tokens=10,
        stop="answer", turns=turns, **other,
    )  # fmt: skip


def write_policy(folder: Path, rows: list[runner.Row]) -> None:
    runner.write_rows(folder / "rows.jsonl", rows)
    suites = dict.fromkeys(sorted(one.suite for one in rows))
    scores = {suite: runner.summarise([one for one in rows if one.suite == suite]) for suite in suites}
    (folder / "scores.json").write_text(json.dumps(scores))


def write_log(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def dapo_rows(count: int) -> list[dict]:
    return [
        {
            "step": n, "time": 1795739518.0 + 10 * n, "reward": 0.1 * n, "reward_answer": 0.05 * n, "loss": 1.0 / n,
            "reward_answer/ramp_1": 0.1, "stop/answer": 0.5, "stop/eos": 0.0, "entropy": 0.4, "kept_groups": 0.5,
            "generations": 1.0, "generated_tokens": 30.0 - 0.01 * n, "sampler_correlation": 0.999, "odd_number": 3.5,
            "sampler_prob_diff": 1e-7 * n, "seconds/rollout": 3.0, "seconds/update": 1.0, "rollout/tokens": 800,
            "rollout/seconds": 2.0, "rollout/decode_s": 1.5, "rollout/extend_s": 0.5, "grad_norm": "nan", "phase": 0,
            "tokens_per_s": 200.0, "flops_per_s": 3e9, "rollout/flops": 6e9, "update/flops": 5e9, "mfu": 0.25,
            "rollout/mfu": 0.2, "update/mfu": 0.4, "memory/host_peak_bytes": 2_000_000_000 + n, "compile/programs": 0,
        }
        for n in range(1, count + 1)
    ]  # fmt: skip


@pytest.fixture
def workdir(tmp_path):
    return make(tmp_path / "W")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with its page, not to be changed."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    folder = make(tmp_path_factory.mktemp("written") / "W")
    assert reporting.write(folder) == folder / "report.html"
    return folder


def make(folder: Path) -> Path:
    sft = [{"step": n, "time": 1795730000.0 + n, "loss": 2.0 / n, "tokens_per_s": 100.0 * n} for n in (50, 100)]
    write_log(folder / "sft", [*sft, {"step": 100, "time": 1795730101.0, "eval/ramp_1/recall": 0.25}])
    write_log(folder / "dapo", dapo_rows(5))
    settings = {"settings": {"reward": {"answer": HOSTILE}, "rows": [1, 2]}, "model": {"embed": 8}}
    (folder / "dapo" / "config.json").write_text(json.dumps(settings))
    write_policy(folder / "evaluate" / "dapo", [row("a", 1.0), row("b", 0.5, observation=HOSTILE), row("c", 1.0, 2)])
    write_policy(folder / "evaluate" / "sft", [row("a", 0.0), row("b", 0.5), row("c", 0.0, 2)])
    (folder / "data").mkdir()
    made = {
        "articles": 3000, "passages": {"train": 1800, "test": 900}, "passages_with_spans": {"train": 1700},
        "spans": {"link": 7835}, "examples": {"train": {"ramp_1": [1800, 1800], "qa": [90]}},
        "indices": {"all": {"passages": 3000, "encoder": "lexical", "recall_at_10": 1.0}}, "seconds": {"all": 75.2},
    }  # fmt: skip
    (folder / "data" / "report.json").write_text(json.dumps(made))
    (folder / "demonstrations").mkdir()
    made = {
        "written": 30, "outcomes": {"miss": 70, "accepted": 30}, "tokens": 3000, "searches": 45,
        "top3_contains_answer": {"title": {"found": 9, "masks": 10, "rate": 0.9}},
    }  # fmt: skip
    (folder / "demonstrations" / "manifest.json").write_text(json.dumps({"tasks": {"ramp_1": made, "qa": {}}}))
    return folder


class Reader(HTMLParser):
    """Checks that tags close in order; collects scripts, ids, references and the text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.scripts, self.text = [], [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self._note(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._note(tag, attributes)

    def _note(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("src", "srcset", "xlink:href"), (tag, name, value)
            if name == "id":
                self.ids.append(value)
            if name == "href":
                assert value.startswith("#"), value
                self.references.append(value[1:])
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data


def section(content: Page, title: str) -> Section:
    return next(one for one in content.sections if one.title == title)


# --- Builders --------------------------------------------------------------------------------------------------------


def test_the_page_of_a_run(workdir):
    content = run_page.run_page(workdir)
    assert content.title == "SFT + DAPO: W"
    assert [one.title for one in content.sections] == [
        "Results", "Training: SFT", "Training: DAPO", "Sample trajectories", "Data, index and teacher", "Settings",
    ]  # fmt: skip
    assert ("DAPO", "2026-11-27 00:32 to 00:32 UTC, up to iteration 5") in content.facts
    tables = {table.title: table for table in section(content, "Results").tables}
    head = tables["Held-out tasks: 1 mask"]
    assert [line[0] for line in head.rows] == ["SFT", "DAPO"]
    # Two episodes, 1.0 and 0.5: the standard error is 0.3536 / sqrt(2).
    assert head.rows[1][:3] == ("DAPO", "0.750 ±0.250", "0.750 ±0.250") and head.rows[1][-1] == "2"
    assert tables["Recall by number of masks and suite"].rows[0] == ("SFT", "0.250 ±0.250", "0.000")
    # Paired by task: 1.0 - 0.0 and 0.5 - 0.5.
    assert tables["Differences, paired by task: 1 mask"].rows[0][1] == "+0.500 ±0.500"
    assert tables["Recall by kind of span: 1 mask"].rows[1] == ("DAPO", "0.750")
    teacher = {table.title: table for table in section(content, "Data, index and teacher").tables}
    assert teacher["Demonstrations of the teacher"].rows == (("1 mask", "30", "30.0 %", "1.50", "100.0", "miss 70"),)
    assert teacher["Hit rates of the teacher's queries"].rows == (("1 mask", "90.0 %"),)
    assert teacher["Tasks"].rows == (("train", "1,800 x 2", "90"),)


def test_missing_pieces_leave_their_section_out(workdir, tmp_path):
    only = run_page.run_page(workdir / "dapo")
    assert [one.title for one in only.sections] == ["Training: DAPO", "Settings"]
    with pytest.raises(FileNotFoundError, match=r"empty holds no run.*masksearch_jax.train --config=configs/dapo.py"):
        run_page.run_page(tmp_path / "empty")
    (workdir / "data" / "report.json").write_text("{")
    with pytest.raises(ValueError, match=r"data/report.json is not JSON"):
        run_page.run_page(workdir)


def test_charts_of_a_stage(workdir):
    charts = {chart.title: chart for chart in section(run_page.run_page(workdir), "Training: DAPO").charts}
    assert [curve.label for curve in charts["Reward and its parts"].curves] == ["all", "answer"]
    assert charts["How episodes end"].curves == (Curve("answer", (1.0, 2.0, 3.0, 4.0, 5.0), (0.5,) * 5),)
    assert charts["Sampler against trainer"].log
    speed = {curve.label: curve.y[0] for curve in charts["Speed"].curves}
    assert speed == {"rollout": 400.0, "whole iteration": 200.0}
    shares = {curve.label: curve.y[0] for curve in charts["Shares by part"].curves}
    assert shares == {"rollout": 0.75, "update": 0.25}
    whole = {curve.label: curve.y[0] for curve in charts["Model FLOPs utilisation"].curves}
    assert whole == {"whole iteration": 0.25, "rollout": 0.2, "update": 0.4}
    assert charts["Model FLOPs"].curves[0].y[0] == 3.0 and charts["Peak memory"].curves[0].label == "host memory"
    # 'nan' is no number, and what never moves is a line of the table instead.
    assert not {"Norm of the gradient", "Generations for a batch", "Learning phase"} & set(charts)
    rows = dict(line[:2] for line in curves.other_numbers(dapo_rows(5)).rows)
    assert rows["odd_number"] == "3.5" and rows["generations"] == "1" and "loss" not in rows


def test_long_curves_are_thinned_to_means():
    (chart,) = curves.stage_charts([{"step": n, "loss": n} for n in range(1000)])
    (loss,) = chart.curves
    assert len(loss.x) <= 300 and loss.y[0] == 1.5 and loss.x == loss.y
    assert sum(loss.y) / len(loss.y) == pytest.approx(499.5)


def test_curves_over_seeds_have_intervals():
    runs = {"a": [[{"step": n, "loss": value * n} for n in (1, 2)] for value in (1.0, 2.0, 3.0)]}
    (chart,) = curves.compared(runs)
    (curve,) = chart.curves
    assert curve.y == (2.0, 4.0)
    # t of 2 degrees of freedom x standard deviation / sqrt(3)
    assert curve.half_width == pytest.approx((4.303 / 3**0.5, 4.303 * 2 / 3**0.5))


def test_a_log_that_is_being_written(workdir):
    path = workdir / "dapo" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')
    assert [one["step"] for one in metric_rows(path)] == [1, 2, 3, 4, 5]
    path.write_text('{"step": 1}\nno row\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not a row"):
        metric_rows(path)


def test_the_choice_of_episodes_is_by_recall_and_not_by_order():
    rows = [row(str(n), n / 10) for n in range(11)]
    shown = episode_samples.chosen(rows, "DAPO")
    assert [one.title for one in shown] == ["DAPO, best: 10", "DAPO, median: 5", "DAPO, worst: 0"]
    tied = [row(str(n), 0.5) for n in range(9)]
    assert (
        episode_samples.chosen(tied, "x") == episode_samples.chosen(tied[::-1], "x")
        and len(episode_samples.chosen(tied, "x")) == 3
    )
    assert [one.title for one in episode_samples.chosen(rows[:1], "x")] == [
        "x, best: 0"
    ] and not episode_samples.chosen([], "x")


def test_an_episode_in_its_parts():
    first, second, third = episode_samples.episode(
        row("a", 1.0, observation="<information> Velith</information>"), "x"
    ).turns
    assert (first.thought, first.query, first.passages) == ("who was born", "Karn birthplace", (7, 9))
    assert first.observation == "Velith"
    assert (second.written, second.error) == ("<sea", "no action")
    assert (third.answer, third.written) == ("Velith", "")


def test_golds_are_marked_as_whole_words():
    assert episode_samples.marked("In New  York, new yorkers", [["York", "new york"]]) == [
        ("In ", False), ("New  York", True), (", new yorkers", False),
    ]  # fmt: skip
    assert episode_samples.marked("a (b) c", [["(b)"]])[1] == ("(b)", True)
    assert episode_samples.marked("text", [[""]]) == [("text", False)]


def test_data_that_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="'t': 1 cells under 2 titles"):
        Table("t", ("a", "b"), (("1",),))
    with pytest.raises(ValueError, match="equally long"):
        Curve("c", (1.0,), (1.0, 2.0))
    with pytest.raises(ValueError, match="kind 'pie'"):
        Chart("c", "x", "y", (Curve("c", (), ()),), "pie")


# --- The file --------------------------------------------------------------------------------------------------------


def test_the_file_is_whole_and_needs_nothing_else(written):
    text = (written / "report.html").read_text()
    read = Reader(text)
    assert "http" not in text.lower().replace("http-equiv", "") and "@import" not in text
    assert not {"link", "img", "iframe", "object", "image"} & set(read.tags)
    assert len(set(read.ids)) == len(read.ids) and set(read.references) <= set(read.ids)
    assert read.tags.count("svg") == sum(len(one.charts) for one in run_page.run_page(written).sections)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text and read.tags.count("table") == text.count('<div class="scroll"')
    assert not list(written.glob("*.partial"))


def test_text_of_others_stays_text(written):
    text = (written / "report.html").read_text()
    read = Reader(text)
    (script,) = read.scripts
    # The one script is ours, and the only one that a browser may run.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text and "alert" not in script
    assert "<script>alert" not in text and "<img" not in text
    # In the settings it is shown, and in the passage of an episode, where the gold is marked.
    assert HOSTILE in read.text and read.text.count("<script>alert('x')</script>") == 2
    assert "&amp; <mark>Velith</mark>" in text


def test_labels_of_a_chart_stay_text(drawing):
    chart = Chart("<b>", "$x$ <i>", "y & z", (Curve("a$b$<c>", (1.0, 2.0), (1.0, 2.0)), Curve("d", (1.0,), (1.0,))))
    text = svg_charts.svg(chart, "c1")
    read = Reader(text)
    assert "a$b$<c>" in read.text and "$x$ <i>" in read.text and "y & z" in read.text and "b" not in read.tags
    assert text == svg_charts.svg(chart, "c1") and text.replace("c1-", "c2-") == svg_charts.svg(chart, "c2")
    assert not re.search(r"\sid=\"(?!c1-)", text) and "#0" not in text and "currentColor" in text


@pytest.mark.parametrize("kind", ["line", "stack", "bars"])
def test_every_kind_of_chart(kind, drawing):
    curve = Curve("a", (0.0, 1.0), (0.5, 0.25), (0.1, None))
    text = svg_charts.svg(Chart("t", "x (s)", "y (s)", (curve, curve), kind, ("first", "second")), "c1")
    assert "var(--s0)" in text and "var(--s1)" in text and "x (s)" in Reader(text).text


def test_a_full_run_stays_small(tmp_path, drawing):
    """900 episodes of five policies with long passages, 1,000 iterations of DAPO."""
    write_log(tmp_path / "dapo", dapo_rows(1000))
    rows = [row(f"task {n}", (n % 7) / 6, 1 + n % 4, observation="word " * 400) for n in range(900)]
    write_policy(tmp_path / "evaluate" / "dapo", rows)
    for policy in ("untrained", "one_search", "sft", "sft_more"):
        shutil.copytree(tmp_path / "evaluate" / "dapo", tmp_path / "evaluate" / policy)
    path = reporting.write(tmp_path)
    assert path.stat().st_size < 2e6
    assert Reader(path.read_text()).text.count("word word") < 15 * 400


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named(library, workdir, monkeypatch):
    if library == "matplotlib":
        pytest.importorskip("jinja2")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}.*\.\[report\]"):
        html_page.render(run_page.run_page(workdir))


def test_sampled_episodes_have_a_table_of_their_own(tmp_path):
    folder = tmp_path / "evaluate" / "dapo"
    write_policy(folder, [row("a", 1.0)])
    assert score_tables.sampled_table(score_tables.read_policies(tmp_path / "evaluate")) is None
    scores = json.loads((folder / "scores.json").read_text())
    for name, recalls in (("dapo", (1.0, 0.0)), ("sft", (0.0, 0.5, 0.0, 0.0))):
        rows = [row("a", recall, sample=sample) for sample, recall in enumerate(recalls)]
        scores["ramp_1"]["sampled"] = sampled.summarise_samples(rows, len(recalls), 0.7)
        write_policy(tmp_path / "evaluate" / name, [row("a", 1.0)])
        (tmp_path / "evaluate" / name / "scores.json").write_text(json.dumps(scores))
    policies = score_tables.read_policies(tmp_path / "evaluate")
    tables = [one for one in run_page.results(policies).tables if one.title == "Sampled episodes"]
    (table,) = tables
    assert table.head[2:] == (
        "n", "temperature", "avg@n recall", "avg@n EM", "avg@n F1", "pass@1", "pass@2", "pass@4"
    )  # fmt: skip
    cells = {line[0]: line[2:] for line in table.rows}
    by_label = {policy.label: policy.name for policy in policies}
    found = {by_label[label]: values for label, values in cells.items()}
    assert found["dapo"] == ("2", "0.7", "0.500", "0.500", "0.500", "0.500", "1.000", "-")
    assert found["sft"] == ("4", "0.7", "0.125", "0.125", "0.125", "0.000", "0.000", "0.000")
