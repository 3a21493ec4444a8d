"""Gaps of coverage: read from a report of coverage.py, matched by code, and every listed one has a reason."""

from benchmarks import coverage_gaps
from benchmarks.coverage_gaps import LEAVES, Gap

NAME = "masksearch_jax/rl/advantages.py"


def line_of(code):
    return 1 + [line.strip() for line in (coverage_gaps.ROOT / NAME).read_text().splitlines()].index(code)


def test_lines_and_branches_are_named_by_their_code():
    loop, body, end = "for row, group in zip(out, rewards, strict=True):", "known = ~np.isnan(group)", "return out"
    report = {
        "files": {
            NAME: {
                "missing_lines": [line_of(body)],
                # The first leads to a line that did not run, which is a gap of its own.
                "missing_branches": [[line_of(loop), line_of(body)], [line_of(loop), line_of(end)], [line_of(end), -9]],
            }
        }
    }
    file = "rl/advantages.py"
    assert coverage_gaps.gaps(report) == sorted([Gap(file, body), Gap(file, loop, end), Gap(file, end, LEAVES)])


def test_the_list():
    text = "# Title\n\n| file | code | why |\n|---|---|---|\n| a/b.py | `x = 1 \\| 2` | r |\n"
    text += "| a/b.py | `if x:` -> `y()` | s |\n| a/b.py | `if x:` -> leaves | t |\n"
    assert coverage_gaps.read_list(text) == {
        Gap("a/b.py", "x = 1 | 2"): "r", Gap("a/b.py", "if x:", "y()"): "s", Gap("a/b.py", "if x:", LEAVES): "t",
    }  # fmt: skip


def test_every_listed_gap_is_code_and_has_a_reason():
    for gap, reason in coverage_gaps.read_list(coverage_gaps.LISTED.read_text()).items():
        assert coverage_gaps._is_code(gap), gap
        assert len(reason.split()) > 3, gap
