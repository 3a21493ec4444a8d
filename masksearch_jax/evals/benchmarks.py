"""Read benchmarks by name, and the corpora that come with some, as plain questions and articles. No TensorFlow.

Preparation calls `read("musique", FILE)`. HotpotQA, 2WikiMultiHopQA, MuSiQue and Bamboogle are read in multi_hop.py,
FanOutQA in fanoutqa.py, the others in open_domain.py.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from masksearch_jax.evals import fanoutqa, multi_hop, open_domain
from masksearch_jax.evals import question_files as files
from masksearch_jax.evals.multi_hop import read_hotpotqa
from masksearch_jax.evals.question_files import Question

__all__ = ["BENCHMARKS", "CORPUS_ENDINGS", "Benchmark", "Question", "read", "read_corpus", "read_hotpotqa"]

CORPUS_ENDINGS = (".json", ".json.gz")
_CORPUS_SOURCE = 'a corpus is {"title": "text"}, {"title": ["sentence", ..]} or [{"title": .., "text": ..}, ..]'


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
    """Return the questions of a benchmark file, in its official format or as Search-R1's JSON lines.

    Raises ValueError for an unknown name, FileNotFoundError that says what to download, and ValueError that names
    file, entry and field for anything that does not have the format.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r} is none of {tuple(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if Path(path).name.removesuffix(".gz").endswith(".jsonl"):
        if open_domain.is_search_r1(files.read_jsonl(Path(path), benchmark.source)[0]):
            return open_domain.read_search_r1(path, benchmark.source)
    return benchmark.reader(path)


def read_corpus(path: Path | str) -> list[tuple[str, str]]:
    """Return (title, text) of each article of a benchmark's corpus, in file order. The whole file is held in memory.

    The file is an object {title: text}, or a list, in which several articles may have the same title. A text is a
    string or a list of sentences.

    Raises FileNotFoundError or ValueError that names file, entry and field for any other format.
    """
    entries = files.read_json(Path(path), _CORPUS_SOURCE, list | dict)
    if isinstance(entries, dict):
        entries = [{"title": title, "text": text} for title, text in entries.items()]
    found = []
    for index, entry in enumerate(entries):
        where = f"{path}, entry {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected an object, got {type(entry).__name__}; {_CORPUS_SOURCE}")
        text = entry.get("text")
        if isinstance(text, list) and text and all(isinstance(sentence, str) for sentence in text):
            entry = {**entry, "text": "".join(text)}
        found.append((files.text(entry, "title", where), files.text(entry, "text", where)))
    return found
