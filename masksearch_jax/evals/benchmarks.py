"""Read benchmarks by name as plain questions. No TensorFlow.

Preparation calls `read("musique", FILE)`. HotpotQA, 2WikiMultiHopQA, MuSiQue and Bamboogle are read in multi_hop.py,
FanOutQA in fanoutqa.py, the others in open_domain.py.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from masksearch_jax.evals import fanoutqa, multi_hop, open_domain, question_forms
from masksearch_jax.evals.multi_hop import read_hotpotqa
from masksearch_jax.evals.question_files import Question

__all__ = ["BENCHMARKS", "CUSTOM", "Benchmark", "Question", "read", "read_hotpotqa"]

CUSTOM = "custom"  # the suite of a benchmark of one's own, which is in no prepared data


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark. title: as in the paper's tables. reader: reads the official file. source: what to download."""

    title: str
    reader: Callable[[Path | str], list[Question]]
    source: str


# The six benchmarks of the paper's Table 2 in its order, then the others that Search-R1 uses.
BENCHMARKS = {
    "hotpotqa": Benchmark("HotpotQA", read_hotpotqa, multi_hop.HOTPOTQA),
    "fanoutqa": Benchmark("FanOutQA", fanoutqa.read_fanoutqa, fanoutqa.FANOUTQA),
    "musique": Benchmark("MuSiQue", multi_hop.read_musique, multi_hop.MUSIQUE),
    "two_wiki": Benchmark("2Wiki", multi_hop.read_2wiki, multi_hop.TWO_WIKI),
    "bamboogle": Benchmark("Bamboogle", multi_hop.read_bamboogle, multi_hop.BAMBOOGLE),
    "freshqa": Benchmark("FreshQA", open_domain.read_freshqa, open_domain.FRESHQA),
    "nq": Benchmark("NQ-open", open_domain.read_nq_open, open_domain.NQ_OPEN),
    "triviaqa": Benchmark("TriviaQA", open_domain.read_triviaqa, open_domain.TRIVIAQA),
    "popqa": Benchmark("PopQA", open_domain.read_popqa, open_domain.POPQA),
}


def read(name: str, path: Path | str) -> list[Question]:
    """Return the questions of a benchmark file, in its official format or in a form of evals/question_forms.py.

    Such a form is taken where the file is parquet, where it holds Search-R1's rows, and where it is no official file of
    HotpotQA or 2WikiMultiHopQA, which are never JSON lines.

    Raises ValueError for an unknown name, FileNotFoundError that says what to download, and ValueError that names
    file, entry and field for anything that does not have the format.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r} is none of {tuple(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if question_forms.is_download(Path(path), benchmark.source, always=name in ("hotpotqa", "two_wiki")):
        return question_forms.read_questions(path, benchmark.source)
    return benchmark.reader(path)
