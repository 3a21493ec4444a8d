"""Mutation testing: small wrong changes of the code that decides what is learnt, each of which a test has to notice.

python -m benchmarks.mutation --mutants=300 --seed=0 --out=mutants.jsonl

Needs the extra `evidence`. cosmic-ray makes the mutants: an operator, a comparison, a number or a constant replaced, a
decorator removed, a loop skipped. They are drawn with a seed, the same number from each module. Each runs the tests of
its module in a process forked from one that has imported JAX, with the mutated source in place of the file; no file is
changed. It ends at the first failure. Mutants that differ in nothing but annotations are left out.

--out: one JSON line a mutant. A second run with the same file does what is missing: mutants without a verdict, and
survivors whose tests have changed since. Survivors that tests/equivalent_mutants.md gives a reason for are equivalent.
Exit status: 1 if another one survived. The last line is JSON.
"""

import argparse
import ast
import dataclasses
import difflib
import functools
import hashlib
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
JUDGED = ROOT / "tests" / "equivalent_mutants.md"

# Module -> the tests that have to notice a change of it, those that fail first in front.
TESTS = {
    "rl/advantages": ["tests/rl/test_advantages.py"],
    "rl/rewards": ["tests/rl/test_rewards.py"],
    "rl/loss": ["tests/rl/test_loss.py"],
    "rl/dynamic_sampling": ["tests/rl/test_dynamic_sampling.py"],
    "text/stop_automaton": ["tests/text/test_stop_automaton.py", "tests/text/test_turn_ends_and_tags.py"],
    "text/prompt": ["tests/text/test_prompt.py", "tests/text/test_clues.py", "tests/text/test_stop_automaton.py"],
}
# Imported once, before the processes fork. Nothing of ours: a mutated module must be imported by its tests anew.
COMMON = (
    "numpy", "jax", "jax.numpy", "pytest", "hypothesis", "tokenizers", "sentencepiece", "jinja2", "msgpack", "flax",
)  # fmt: skip
# A mutant that takes this many times the processor seconds of the unchanged code, and these more, runs without end.
SLOWER, SPARE_SECONDS = 5, 30


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A changed source of one module. before, after: the lines that differ, stripped and joined by a space."""

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]


def places_of(source: str) -> list[tuple[str, int]]:
    """Return (operator, occurrence) of every mutation that cosmic-ray knows for a source."""
    from cosmic_ray import ast as trees
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    nodes = list(trees.ast_nodes(trees.get_ast(source)))
    places = []
    for name in provider:
        if name not in ("VariableReplacer", "VariableInserter"):  # they put random numbers for names given by hand
            operator = provider[name]()
            count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            places += [(name, occurrence) for occurrence in range(count)]
    return places


def draw(module: str, source: str, count: int, rng: random.Random) -> list[Mutant]:
    """Draw up to `count` mutants of a source that differ from it, and from one another, in what they do."""
    from cosmic_ray import mutating
    from cosmic_ray.operators.provider import OperatorProvider

    provider, seen, drawn = OperatorProvider(), {_meaning(source)}, []
    places = places_of(source)
    rng.shuffle(places)
    for name, occurrence in places:
        if len(drawn) == count:
            break
        mutated = mutating.mutate_code(source, provider[name](), occurrence)
        try:
            meaning = _meaning(mutated)
        except SyntaxError:
            continue
        if meaning not in seen:
            seen.add(meaning)
            drawn.append(_described(module, source, mutated))
    return drawn


def sample(sources: Mapping[str, str], count: int, seed: int) -> list[Mutant]:
    """Draw `count` mutants, the same number of each module; one with fewer gives all, and the others make up for it."""
    rng = random.Random(seed)
    drawn: list[Mutant] = []
    # The shortest module first: what it lacks is then spread over the longer ones.
    for place, module in enumerate(sorted(sources, key=lambda name: (len(sources[name]), name))):
        drawn += draw(module, sources[module], (count - len(drawn)) // (len(sources) - place), rng)
    return drawn


def judged(path: Path = JUDGED) -> set[tuple[str, str, str]]:
    """Return the (module, before, after) of the table of mutants that change nothing anyone can see."""
    rows = set()
    for line in path.read_text().splitlines() if path.exists() else ():
        cells = [cell.strip() for cell in line.replace("\\|", "\0").split("|")[1:-1]]
        if len(cells) == 4 and cells[0] in TESTS:
            before, after = (cell.strip("`").strip().replace("\0", "|") for cell in cells[1:3])
            rows.add((cells[0], before, after))
    return rows


class MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a given source, and leaves all others to the usual way."""

    def __init__(self, module: str, source: str):
        self._name = f"masksearch_jax.{module.replace('/', '.')}"
        self._file, self._source = ROOT / "masksearch_jax" / f"{module}.py", source

    def find_spec(self, name: str, path: object = None, target: object = None):  # noqa: ANN201
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._file, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, str(self._file), "exec"), module.__dict__)


def run_tests(mutant: Mutant, seconds: int) -> tuple[str, str, float]:
    """Run the tests of a mutant's module in a fork: (verdict, the test that failed, processor seconds).

    Verdict: killed, survived, or endless (used more than `seconds` of the processor, or 20 times that by the clock).
    """
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            signal.alarm(20 * seconds)  # by the clock: a lock that nobody opens
            status = 70
            try:
                status = _pytest(mutant)
            finally:
                os._exit(status)
        _, status, usage = os.wait4(child, 0)
        output.seek(0)
        failed = [line.split(" - ")[0] for line in output if line.startswith(("FAILED ", "ERROR "))]
    spent = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return "endless", "", spent
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return "survived", "", spent
    return "killed", failed[0].split(" ", 1)[1].strip() if failed else f"status {status}", spent


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=300, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="verdicts, a JSON line each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no mutant after that time")
    parser.add_argument("--only", default="", help="modules, separated by commas: rl/loss,text/prompt")
    flags = parser.parse_args(argv)
    started = time.monotonic()
    try:
        drawn = sample({module: _source_of(module) for module in TESTS}, flags.mutants, flags.seed)
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install -c launch/constraints.txt -e '.[evidence]'")
    only = set(filter(None, flags.only.split(",")))
    if only - set(TESTS):
        sys.exit(f"--only={flags.only}: the modules are {', '.join(TESTS)}")
    verdicts = {row["key"]: row for row in _read(flags.out)}
    missing = [m for m in drawn if _is_missing(m, verdicts) and (not only or m.module in only)]
    if missing:
        _import_common()
    with flags.out.open("a") as out:
        for mutant in missing:
            if time.monotonic() - started > 60 * flags.minutes:
                break
            verdict, test, spent = run_tests(mutant, _limit(mutant.module))
            row = {**dataclasses.asdict(mutant), "key": mutant.key, "verdict": verdict, "test": test}
            row |= {"seconds": round(spent, 1), "tests": _tests_of(mutant.module)}
            del row["source"]
            verdicts[mutant.key] = row
            out.write(json.dumps(row) + "\n")
            out.flush()
            if verdict == "survived":
                print(f"survived: {mutant.module}:{mutant.line}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
    return _report([verdicts[mutant.key] for mutant in drawn if mutant.key in verdicts], len(drawn))


def _is_missing(mutant: Mutant, verdicts: Mapping[str, dict]) -> bool:
    row = verdicts.get(mutant.key)
    return row is None or (row["verdict"] == "survived" and row["tests"] != _tests_of(mutant.module))


@functools.cache
def _tests_of(module: str) -> str:
    """Return a hash of the tests of a module."""
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in TESTS[module])).hexdigest()[:16]


def _report(rows: Sequence[dict], drawn: int) -> int:
    equivalent = judged()
    table: dict[str, Counter[str]] = {module: Counter() for module in TESTS}
    unjudged = []
    for row in rows:
        verdict = row["verdict"]
        if verdict == "survived":
            known = (row["module"], row["before"], row["after"]) in equivalent
            verdict = "equivalent" if known else "survived"
            if not known:
                unjudged.append(row)
        table[row["module"]][verdict] += 1
    names = ("killed", "endless", "equivalent", "survived")
    print(f"{'module':22}" + "".join(f"{name:>12}" for name in names))
    for module, counts in table.items():
        print(f"{module:22}" + "".join(f"{counts[name]:12}" for name in names))
    for row in unjudged:
        print(f"not judged: {row['module']}:{row['line']}\n  - {row['before']}\n  + {row['after']}")
    total = sum(table.values(), Counter())
    print(json.dumps({"drawn": drawn, "run": len(rows), **{name: total[name] for name in names}}))
    return int(bool(unjudged))


def _import_common() -> None:
    """Import what the tests share, with the settings of tests/conftest.py, which JAX reads as it is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # Most programs of a mutant are those of the unchanged code.
    cache = Path(tempfile.gettempdir()) / f"masksearch_mutation_{os.getuid()}"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    for name in COMMON:
        importlib.import_module(name)


@functools.cache
def _limit(module: str) -> int:
    """Return how many seconds of the processor a mutant may use. Raises SystemExit if the tests fail without one."""
    verdict, test, spent = run_tests(Mutant(module, 0, "", "", _source_of(module)), 3600)
    if verdict != "survived":
        sys.exit(f"{test} fails on the unchanged {module}; mend that first: python -m pytest {' '.join(TESTS[module])}")
    print(f"{module}: its tests take {spent:.1f} s of the processor", flush=True)
    return int(SLOWER * spent) + SPARE_SECONDS


def _pytest(mutant: Mutant) -> int:
    import pytest

    assert not any(name.startswith("masksearch_jax.") for name in sys.modules), "imported before the fork"
    sys.meta_path.insert(0, MutatedModule(mutant.module, mutant.source))
    os.chdir(ROOT)
    flags = ["-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
    return int(pytest.main([*flags, *TESTS[mutant.module]]))


def _source_of(module: str) -> str:
    return (ROOT / "masksearch_jax" / f"{module}.py").read_text()


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _meaning(source: str) -> str:
    """Return the syntax tree as text, without annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("_")
    return ast.dump(tree)


def _described(module: str, source: str, mutated: str) -> Mutant:
    old, new = source.splitlines(), mutated.splitlines()
    changes = [c for c in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if c[0] != "equal"]
    first, last = changes[0], changes[-1]
    return Mutant(module, first[1] + 1, _joined(old[first[1] : last[2]]), _joined(new[first[3] : last[4]]), mutated)


def _joined(lines: Iterable[str]) -> str:
    return " ".join(line.strip() for line in lines).strip()


if __name__ == "__main__":
    sys.exit(main())
