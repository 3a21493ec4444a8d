"""Mutants: drawn alike with a seed, run in a process of their own, judged by a table."""

import random

import pytest

from benchmarks import mutation

SOURCE = '''
import numpy as np

LIMIT = 3


def least(values: list[int] | None, floor: int = 0) -> int | None:
    """Return the least value above `floor`."""
    found = [one for one in values or [] if one > floor]
    return min(found) if found else None
'''


def test_mutants_differ_in_what_they_do_and_come_alike_with_a_seed():
    pytest.importorskip("cosmic_ray", reason="pip install -c launch/constraints.txt -e '.[evidence]'")
    drawn = mutation.draw("rl/loss", SOURCE, 1000, random.Random(0))
    assert len({mutant.key for mutant in drawn}) == len(drawn) > 10
    assert not any("def least" in mutant.before and "= 0" in mutant.after for mutant in drawn)  # an annotation alone
    assert {mutant.after for mutant in drawn if mutant.line == 4} == {"LIMIT = 4", "LIMIT = 2"}
    sources = {"rl/loss": SOURCE, "rl/rewards": SOURCE + "\n\nOTHER = 1 + 2\n"}
    again = mutation.sample(sources, 8, seed=1)
    assert again == mutation.sample(sources, 8, seed=1) != mutation.sample(sources, 8, seed=2)
    assert [mutant.module for mutant in again] == ["rl/loss"] * 4 + ["rl/rewards"] * 4


def test_the_table_of_equivalent_mutants_is_code_of_its_files():
    rows = mutation.judged()
    for module, before, after in rows:
        source = " ".join(line.strip() for line in mutation._source_of(module).splitlines())
        assert before in source and before != after, (module, before)


def test_a_row_of_the_table(tmp_path):
    path = tmp_path / "equivalent.md"
    path.write_text("| module | before | after | why |\n|---|---|---|---|\n| rl/loss | `a \\| b` | `a & b` | x |\n")
    assert mutation.judged(path) == {("rl/loss", "a | b", "a & b")}
