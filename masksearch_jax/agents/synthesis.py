"""Runs the agents over many tasks: concurrent, resumable, judged. Accepted trajectories become demonstrations.

Enters: tasks in order, a client, a search tool, a journal. Leaves: a given number of demonstrations, the first ones in
the order of the tasks, whatever the order in which they were finished. So a run that was killed and resumed writes the
same as an uninterrupted one (as far as the model's replies repeat, which the cache ensures). A failure that ends the
run (no server, no money) ends it cleanly: tasks in progress are finished or given up, and finished tasks are in the
journal.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator

from masksearch_jax.agents import solver, trajectory_judge
from masksearch_jax.agents.journal import Journal
from masksearch_jax.agents.problem import Problem
from masksearch_jax.agents.transcript import demonstration
from masksearch_jax.data import records
from masksearch_jax.llm.chat_types import RequestError
from masksearch_jax.llm.client import Client
from masksearch_jax.llm.structured import ReplyError
from masksearch_jax.retrieval import interface
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text.tokenizer_protocol import Tokenizer

JUDGES = ("rules", "llm", "both")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Everything that turns a task into a record of the journal.

    kind: one of JUDGES. recall: the least token recall that the rules require of each answer."""

    client: Client
    searcher: interface.Searcher
    tokenizer: Tokenizer
    cfg: solver.AgentsConfig
    kind: str
    recall: float

    def __post_init__(self):
        if self.kind not in JUDGES:
            raise ValueError(f"synthesize.agents.judge={self.kind!r} is none of {JUDGES}")
        if not 0 < self.recall <= 1:
            raise ValueError(f"synthesize.agents.judge_recall={self.recall} has to be in (0, 1]")

    def record(self, task: records.Task) -> JsonObject:
        """Solve and judge a task; return its record of the journal."""
        attempt = solver.solve(self.client, Problem.of(task), self.searcher, self.tokenizer, self.cfg)
        record: JsonObject = {
            "task_id": task.id, "rejected": attempt.failure, "detail": attempt.detail, "text": task.text,
            "golds": task.answers, "given": attempt.given, "steps": [dataclasses.asdict(s) for s in attempt.steps],
        }  # fmt: skip
        if attempt.transcript is None:
            return record
        done = attempt.transcript
        record |= {"transcript": dataclasses.asdict(done)}
        recalls = trajectory_judge.recalls(attempt.given, task.answers)
        recall = sum(recalls) / len(recalls)
        record |= {"recall": recall} | self._judged(task, attempt.given, recalls)
        if not record["rejected"]:
            name = f"agents.{task.id}"
            made, reason = demonstration(name, task, done, recall, self.cfg.limits, self.tokenizer)
            record |= {"rejected": reason, "demonstration": made and dataclasses.asdict(made)}
        return record

    def _judged(self, task: records.Task, given: list[str], recalls: list[float]) -> dict[str, str]:
        if self.kind in ("rules", "both") and min(recalls) < self.recall:
            return {"rejected": "wrong", "detail": f"recall {min(recalls):.2f}"}
        if self.kind == "rules":
            return {}
        try:
            said = trajectory_judge.by_model(
                self.client, task.text, given, task.answers, self.cfg.sampling, self.cfg.attempts
            )
        except (ReplyError, RequestError) as error:
            return {"rejected": "not_judged", "detail": str(error)}
        return {"detail": said.reason} if said.correct else {"rejected": "wrong", "detail": said.reason}


def run(
    tasks: Iterator[records.Task],
    count: int,
    teacher: Teacher,
    journal: Journal,
    workers: int,
    show: Callable[[int], None] = lambda accepted: None,
) -> tuple[list[JsonObject], collections.Counter[str]]:
    """Work on tasks in order until `count` are accepted or none are left.

    Return the records of the first `count` accepted ones in that order, and how many tasks were rejected for which
    reason. workers: tasks at a time. show: is told how many are accepted. Raises what a worker raised, after all others
    have ended.
    """
    order: list[str] = []
    accepted, failed = 0, None
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running: set[concurrent.futures.Future] = set()
        while failed is None:
            while accepted < count and len(running) < workers and (task := next(tasks, None)):
                order.append(task.id)
                if task.id in journal:
                    accepted += journal.accepted(task.id)
                else:
                    running.add(pool.submit(_work, task, teacher, journal))
            show(min(accepted, count))
            if not running:
                break
            finished, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for one in finished:
                if error := one.exception():
                    failed = failed or error
                else:
                    accepted += one.result()
    if failed:
        raise failed
    taken = (journal.get(task_id) for task_id in order if journal.accepted(task_id))
    rejected = (journal.get(task_id)["rejected"] for task_id in order if not journal.accepted(task_id))
    return [record for _, record in zip(range(count), taken, strict=False)], collections.Counter(rejected)


def _work(task: records.Task, teacher: Teacher, journal: Journal) -> bool:
    record = teacher.record(task)
    journal.add(record)
    return not record["rejected"]
