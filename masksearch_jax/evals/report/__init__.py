"""From scores to what a person reads: plain-text tables and report.json (tables), report.html (content, page).

A page is made in two steps. Builders (run, experiment) read the files of a workdir into the dataclasses of `content`;
`page` writes these as one HTML file that needs nothing else. A line of stages with tables and curves of its own hands
them to `page` in the same dataclasses. matplotlib (plots) and jinja2 (page) are imported when a page is written, and
nowhere else.
"""

from masksearch_jax.evals.report.tables import (
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

__all__ = [
    "LABELS", "OPTIONAL_POLICIES", "POLICIES", "SCORES", "aligned", "benchmark_table", "by_kind_table", "table",
    "write_report",
]  # fmt: skip
