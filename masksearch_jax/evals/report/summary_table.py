"""The before/after table as plain text, and report.json.

Enters: summaries of evals.runner by policy, in the order to show. Leaves: plain text, and one JSON file.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.runtime.types import Json, JsonObject

# The policies of report.json. Each entry must hold SCORES.
POLICIES = ("untrained", "one_search", "sft", "sft_more", "dapo")
# Policies that a report shows only if they were asked for.
OPTIONAL_POLICIES = ("few_shot", "rag")
SCORES = ("recall", "em", "f1", "format", "searches", "tokens", "episodes")

# Shown if some summary has it: FanOutQA's loose accuracy.
_OPTIONAL = {"loose": "loose"}

# Column title -> key of a summary. Shares are shown in [0, 1].
_COLUMNS = {
    "recall": "recall",
    "EM": "em",
    "F1": "f1",
    "format": "format",
    "hit": "hit",
    "searches": "searches",
    "queries/mask": "queries_per_mask",
    "tokens": "tokens",
    "episodes": "episodes",
}
LABELS = {
    "untrained": "untrained",
    "few_shot": "untrained, worked examples",
    "rag": "plain RAG: untrained, one search by a rule",
    "one_search": "SFT, one retrieval",
    "sft": "SFT",
    "sft_more": "SFT, as long as DAPO",
    "dapo": "DAPO",
}


def table(scores: Mapping[str, Mapping[str, Json] | None], title: str = "") -> str:
    """Return a plain-text table with one line per policy; a policy without a summary (None) shows dashes.

    scores: name -> `runner.summarise`. Recall is shown with its standard error if the summary has one.
    Raises ValueError if there are no scores.
    """
    if not scores:
        raise ValueError("nothing to show: no scores given")
    held = {key for summary in scores.values() for key in summary or ()}
    columns = _COLUMNS | {name: key for name, key in _OPTIONAL.items() if key in held}
    lines = [["policy", *columns]]
    for name, summary in scores.items():
        lines.append([LABELS.get(name, name), *(_cell(summary, key) for key in columns.values())])
    return aligned(lines, title)


def benchmark_table(by_policy: Mapping[str, Mapping[str, Json] | None], title: str = "") -> str:
    """Return a plain-text table of recall x 100, one line per policy and one column per benchmark, as in Table 2.

    The last column is the mean. by_policy: {policy: {benchmark's title: `runner.summarise`}}, with the same benchmarks
    for each policy; None shows dashes.
    """
    columns = list(dict.fromkeys(name for scores in by_policy.values() for name in scores or ()))
    lines = [["policy", *columns, "avg"]]
    for policy, scores in by_policy.items():
        if scores:
            recalls = [100 * scores[name]["recall"] for name in columns]
            cells = [f"{value:.2f}" for value in (*recalls, sum(recalls) / len(recalls))]
        else:
            cells = ["-"] * (len(columns) + 1)
        lines.append([LABELS.get(policy, policy), *cells])
    return aligned(lines, title)


def by_kind_table(scores: Mapping[str, Mapping[str, Json] | None], title: str = "") -> str:
    """Return a plain-text table of recall by kind of span, one line per policy."""
    kinds = sorted({kind for summary in scores.values() if summary for kind in summary["by_kind"]})
    lines = [["policy", *kinds]]
    for name, summary in scores.items():
        found = summary["by_kind"] if summary else {}
        lines.append([LABELS.get(name, name), *(_cell(found, kind) for kind in kinds)])
    return aligned(lines, title)


def write_report(
    path: Path | str,
    scores: Mapping[str, Mapping[str, Json] | None],
    per_masks: Mapping[str, Json],
    seed: int,
    wall_seconds: float,
    config: Mapping[str, Json],
    extra: Mapping[str, Json] | None = None,
) -> JsonObject:
    """Write report.json atomically, and return its content.

    scores: a summary for each of POLICIES, None if that policy was not evaluated. per_masks: the same for each
    ramp_<k>. config: the settings of the run. extra: further top-level entries, such as question answering.
    Raises ValueError that names a policy or score that is missing, and ValueError for NaN or infinite numbers.
    """
    missing = [name for name in POLICIES if name not in scores]
    if missing:
        raise ValueError(f"the report lacks scores for {missing}; pass None for a policy that was not evaluated")
    for name, summary in scores.items():
        absent = [key for key in SCORES if summary is not None and key not in summary]
        if absent:
            raise ValueError(f"the scores of {name!r} lack {absent}")
    report = {
        **scores, "per_masks": per_masks, "seed": seed, "wall_seconds": wall_seconds, "config": config, **(extra or {})
    }  # fmt: skip
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    return report


def aligned(lines: list[list[str]], title: str) -> str:
    """Return lines of cells as text: the first column aligned left, others right, and a rule under the first line."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([*([title] if title else []), text[0], rule, *text[1:]])


def _cell(summary: Mapping[str, Json] | None, key: str) -> str:
    if not summary or summary.get(key) is None:
        return "-"
    value = summary[key]
    if key == "recall" and summary.get("recall_se") is not None:
        return f"{value:.3f} ±{summary['recall_se']:.3f}"
    digits = {"episodes": 0, "tokens": 1, "searches": 2}.get(key, 3)
    return f"{value:.{digits}f}"
