"""What the oracle's searches may return, by level of the demonstrations."""

from masksearch_jax import evaluate, synthesize
from masksearch_jax.data import records
from masksearch_jax.job import Job


class Recording:
    """A searcher that notes whose source its queries want left out."""

    def __init__(self, searcher):
        self.searcher, self.excluded, self.fingerprint = searcher, [], searcher.fingerprint

    def search(self, queries, k):
        self.excluded += [query.passage_id for query in queries]
        return self.searcher.search(queries, k)


def made(cfg, workdir, name):
    """(demonstrations of one level, the sources that the last searches excluded)."""
    cfg.synthesize.examples = {name: 8}
    cfg.synthesize.update({"retry": 0.0, "association_tasks": 0, "probe_tasks": 0})
    searcher = Recording(Job(cfg, workdir).searcher("train"))
    synthesize.run(cfg, workdir, searcher)
    return list(
        records.read(workdir / "demonstrations" / f"{name}.array_record", records.Demonstration)
    ), searcher.excluded


def test_an_open_mask_may_find_its_source_and_no_other_may(cfg, workdir):
    closed, kept_out = made(cfg, workdir, "ramp_1")
    opened, allowed = made(cfg, workdir, "open")
    assert len(closed) == len(opened) == 8 and min(kept_out) >= 0 and set(allowed) == {-1}
    tasks = {task.id: task for task in synthesize._tasks(workdir, 1)}
    text = Job(cfg, workdir).tokenizer.decode

    def shows_source(one):
        return tasks[one.task_id].paragraph in text(one.ids)

    assert any(map(shows_source, opened)) and not any(map(shows_source, closed))


def test_open_masks_are_a_suite_of_evaluation(cfg, workdir):
    cfg.evaluate.episodes = {"1": 3, "open": 3}
    suites = evaluate.suites_of(Job(cfg, workdir))
    assert [one.id for one in suites["open"]] == [one.id for one in suites["1"]]
    assert {one.passage_id for one in suites["open"]} == {-1} and min(one.passage_id for one in suites["1"]) >= 0
