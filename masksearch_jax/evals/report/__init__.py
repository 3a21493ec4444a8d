"""Turn scores into what people read: plain-text tables and report.json (summary_table), and report.html.

report.html is made in two steps. run_page and experiment_page read the files of a workdir into the dataclasses of
`sections`; html_page writes these as one HTML file that needs no other file. A workflow with tables and curves of its
own gives them to html_page in the same dataclasses. matplotlib (svg_charts) and jinja2 (html_page) are imported only
when charts or pages are written.
"""

from masksearch_jax.evals.report.summary_table import (
    LABELS,
    OPTIONAL_POLICIES,
    POLICIES,
    SCORES,
    aligned,
    benchmark_table,
    by_kind_table,
    table,
    write_report,
)
from masksearch_jax.evals.report.task_labels import task_label

__all__ = [
    "LABELS", "OPTIONAL_POLICIES", "POLICIES", "SCORES", "aligned", "benchmark_table", "by_kind_table", "table",
    "task_label", "write_report",
]  # fmt: skip
