"""Episodes for tests of the database and of the viewer."""

import json
from pathlib import Path

import numpy as np

from masksearch_jax.evals.runner import Row, write_rows
from masksearch_jax.trajectories.episode import Episode, pack_arrays
from masksearch_jax.trajectories.store import FILE, FOLDER, EpisodeStore

HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>\u202e\x00 & \"'"


def episode(group: int = 0, sample: int = 0, **fields) -> Episode:
    turns = [
        {
            "action": "search", "text": "<think> A year.</think><search> Karn Velith</search>", "query": "Karn Velith",
            "passages": [3, 5], "observation": f"<information> Karn was born in 1849. {HOSTILE}</information>",
            "error": "",
        },
        {
            "action": "visit", "text": "<think> More.</think><visit> Karn Velith</visit>", "query": "Karn Velith",
            "passages": [], "observation": "", "error": "",
        },
        {
            "action": "answer", "text": "<think> So 1849.</think><answer> 1849</answer>", "query": "", "passages": [],
            "observation": "", "error": "",
        },
    ]  # fmt: skip
    known = dict(
        source="dapo", step=1 + group // 4, version=group // 4, group=group, sample=sample, task_id=f"task{group}",
        task="ramp_1", stop="answer", answer="1849", score=1.0, format=1.0, searches=1, tokens=6, hit=1.0,
        text=f"Karn Velith number {group} was born in [mask]. {HOSTILE}", golds=[["1849", "year 1849"]], spans=["1849"],
        span_scores=[1.0], span_hits=[True], turns=turns, reward=1.1, length=0.0,
    )  # fmt: skip
    return Episode(**known | fields)


def tokens() -> bytes:
    texts = ["Karn", " was", "[mask]", "<think>", " So", HOSTILE, "é", ""]
    return pack_arrays(
        {
            "ids": np.arange(8, dtype=np.int32), "trainable": np.array([0, 0, 0, 1, 1, 1, 0, 1], np.uint8),
            "sampler": np.array([0, 0, 0, -0.1, -2.5, -9.0, 0, -0.2], np.float32), "prompt": np.array([3], np.int32),
        },
        texts,
    )  # fmt: skip


def trained() -> bytes:
    return pack_arrays({
        "trainer": np.array([0, 0, 0, -0.11, -2.4, -9.1, 0, -0.2], np.float32),
        "after": np.array([0, 0, 0, -0.05, -2.0, -9.9, 0, -0.2], np.float32),
        "clipped": np.array([0, 0, 0, 0, 1, -1, 0, 0], np.int8),
    })


def row(place: int, **fields) -> Row:
    one = episode(place)
    known = dict(
        task_id=one.task_id, kind="ramp", masks=1, span_kinds=["date"], text=one.text, golds=one.golds, answer="1849",
        spans=["1849"], recalls=[1.0], f1s=[1.0], ems=[1.0], recall=1.0, f1=1.0, em=1.0, format=1.0, hits=[True],
        hit=1.0, searches=1, queries=["Karn Velith"], distinct_queries=1, tokens=6, stop="answer", turns=one.turns,
    )  # fmt: skip
    return Row(**known | fields)


def make_run(workdir: Path, groups: int = 12) -> Path:
    """A workdir with trajectories of DAPO, two evaluations and the metrics of two stages."""
    store = EpisodeStore(workdir / "dapo" / FOLDER / FILE, 1 << 30)
    for group in range(groups):
        varied = [
            {"reward": s / 4, "score": s / 4, "searches": s, "stop": "turns" if s == 0 else "answer"} for s in range(4)
        ]
        store.add((episode(group, s, **varied[s]), tokens()) for s in range(4))
        if group % 2 == 0:
            values = [(group, s, s - 1.5, trained()) for s in range(4)]
            store.set_trained("dapo", 1 + group // 4, values)
    store.close()
    for policy, right in (("sft", 0.25), ("dapo", 0.5)):
        rows = [row(place, recall=float(place % 4 < right * 4)) for place in range(groups)]
        write_rows(workdir / "evaluate" / policy / "rows.jsonl", rows)
    for stage, names, time in (("sft", ("loss",), 1.0), ("dapo", ("reward", "seconds/rollout"), 2.0)):
        lines = [{"step": n, "time": time + n, **{name: n / 7 for name in names}} for n in range(1, 9)]
        path = workdir / stage / "metrics.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir
