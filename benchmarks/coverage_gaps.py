"""Branch coverage of what decides a result, by the tests of its own folders; every gap has a reason or is a failure.

python -m benchmarks.coverage_gaps                    runs the tests of the five packages, then compares
python -m benchmarks.coverage_gaps --data=FOLDER      compares what an earlier run left in FOLDER

Needs the extra `evidence`. Measured are rl, rollout, text, data and scoring, each file by the quick tests of all five
folders under coverage.py. A line that did not run, or a branch that was not taken, has to stand with its code and a
reason in tests/uncovered.md. Line numbers do not count, so that a change elsewhere in a file changes nothing.
Exit status: 1 if a gap is not listed, or a listed one is no code of its file any more. The last line is JSON.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
LISTED = ROOT / "tests" / "uncovered.md"
PACKAGES = ("rl", "rollout", "text", "data", "scoring")
LEAVES = "leaves"  # the target of a branch that ends its function or module


@dataclasses.dataclass(frozen=True, order=True)
class Gap:
    """A line that did not run, or a branch that was not taken.

    file: below masksearch_jax/. code: the line, stripped. target: the line to which the branch leads, stripped, LEAVES
    if it leaves the function; '' for a line.
    """

    file: str
    code: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.code}" + (f" -> {self.target}" if self.target else "")


def measure(folder: Path, packages: Sequence[str]) -> None:
    """Run the tests of the packages under coverage.py, one process a folder; its data files go to `folder`.

    Raises SystemExit if a test fails."""
    sources = ",".join(f"masksearch_jax.{name}" for name in PACKAGES)
    settings = folder / "coveragerc"
    # A traced function of JAX runs once and is covered; what XLA makes of it cannot be seen.
    settings.write_text(
        f"[run]\nbranch = True\nparallel = True\nsource = {sources}\ndata_file = {folder}/.coverage\n"
        "disable_warnings = module-not-imported\n"
    )
    for name in packages:
        print(f"tests/{name}", flush=True)
        command = ["coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([sys.executable, "-m", *command, f"tests/{name}"], cwd=ROOT, env=_environment())
        if done.returncode:
            sys.exit(f"tests/{name} fails; coverage of failing tests says nothing")


def read_report(folder: Path) -> dict:
    """Return the JSON report of the data files in a folder, which are left as they are."""
    data = sorted(str(path) for path in folder.glob(".coverage.*"))
    if not data:
        sys.exit(f"{folder} holds no .coverage.* files; run python -m benchmarks.coverage_gaps without --data")
    with tempfile.TemporaryDirectory() as scratch:
        whole, report = f"--data-file={scratch}/whole", Path(scratch) / "report.json"
        for command in (
            ["combine", "--keep", "--quiet", whole, *data],
            ["json", "--quiet", whole, "-o", str(report)],
        ):
            subprocess.run([sys.executable, "-m", "coverage", *command], cwd=ROOT, env=_environment(), check=True)
        return json.loads(report.read_text())


def gaps(report: dict) -> list[Gap]:
    """Return the gaps of a report. A branch is none where its own line or its target did not run: that line is one."""
    found: set[Gap] = set()
    for name, facts in report["files"].items():
        code = ["", *_code((ROOT / name).read_text().splitlines())]  # by the number of the line
        file = name.removeprefix("masksearch_jax/")
        missing = set(facts["missing_lines"])
        found |= {Gap(file, code[line]) for line in missing}
        for line, target in facts["missing_branches"]:
            if not {line, target} & missing:
                found.add(Gap(file, code[line], LEAVES if target < 0 else code[target]))
    return sorted(found)


def read_list(text: str) -> dict[Gap, str]:
    """Return {gap: reason} of the table in tests/uncovered.md: file, code or `code` -> `code`, reason."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "\0").strip().strip("|").split(" | ")]
        if len(cells) == 3 and cells[0].endswith(".py"):
            file, code, reason = (cell.replace("\0", "|") for cell in cells)
            code, _, target = code.partition("` -> ")
            target = target if target == LEAVES else target.strip("`")
            found[Gap(file, code.strip("`"), target)] = reason
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data files of coverage.py of an earlier run")
    parser.add_argument("--keep", type=Path, help="keep the data files in this folder")
    flags = parser.parse_args(argv)
    if importlib.util.find_spec("coverage") is None:
        sys.exit("coverage is missing: pip install -c launch/constraints.txt -e '.[evidence]'")
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.data or flags.keep or Path(scratch)
        if not flags.data:
            folder.mkdir(parents=True, exist_ok=True)
            measure(folder.resolve(), PACKAGES)
        report = read_report(folder)
    found, listed = gaps(report), read_list(LISTED.read_text())
    unknown = [gap for gap in found if gap not in listed]
    gone = [gap for gap in listed if not _is_code(gap)]
    for gap in unknown:
        print(f"not covered, and not in {LISTED.relative_to(ROOT)}: {gap}")
    for gap in gone:
        print(f"listed in {LISTED.relative_to(ROOT)}, but no code any more: {gap}")
    for gap in sorted(set(listed) - set(found) - set(gone)):
        print(f"note: listed, and covered here: {gap}")
    print(json.dumps(summary(report) | {"gaps": len(found), "not_listed": len(unknown), "stale": len(gone)}))
    return int(bool(unknown or gone))


def summary(report: dict) -> dict:
    """Return per package the share of lines and of branches that ran, and their numbers in all."""
    shares = {}
    for package in PACKAGES:
        facts = [f["summary"] for name, f in report["files"].items() if name.startswith(f"masksearch_jax/{package}/")]
        total = {key: sum(one[key] for one in facts) for key in facts[0] if isinstance(facts[0][key], int)}
        shares[package] = {
            "lines": total["num_statements"], "lines_run": total["covered_lines"],
            "branches": total["num_branches"], "branches_taken": total["covered_branches"],
        }  # fmt: skip
    return {"coverage": shares}


def _code(lines: Sequence[str]) -> list[str]:
    """Return the code of each line, stripped; one that ends in an opening bracket has the next one beside it."""
    bare = [line.strip() for line in lines]
    following = [*bare, ""][1:]
    return [f"{one} {after}" if one.endswith("(") else one for one, after in zip(bare, following, strict=True)]


def _is_code(gap: Gap) -> bool:
    path = ROOT / "masksearch_jax" / gap.file
    lines = set(_code(path.read_text().splitlines())) if path.is_file() else set()
    return gap.code in lines and (gap.target in ("", LEAVES) or gap.target in lines)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


if __name__ == "__main__":
    sys.exit(main())
