"""Benchmark preparation: beside other readers of Wikipedia, and against the size of the dump. Prints one JSON line.

    python -m benchmarks.prepare peers --dump=enwiki-shortened.xml.bz2 --copies=4 --rounds=3 --peers=PEERS/bin
    python -m benchmarks.prepare growth --entities=1000,3000,9000
    python -m benchmarks.prepare growth --dump=enwiki-shortened.xml.bz2 --copies=1,3,9 [--runner=DirectRunner]

peers: the dump, repeated, goes through each program on one core, in turn. PEERS is an environment of
`pip install wikiextractor gensim`, and these commands run in it:

    wikiextractor DUMP -o FOLDER --processes 1 -q --no-templates --json -b 100M
    python -m gensim.scripts.segment_wiki -f DUMP -o FILE.json.gz -w 1

Both drop templates and tables. wikiextractor writes the plain text of each article. segment_wiki writes its plain text
by section, gzipped, but leaves out articles of under 200 characters. Neither keeps where in the text a link stands, and
neither cuts passages. `text` is our reader and cleaner, which writes one JSON line per article: text, links with
offsets, categories, infobox. `passages` is the stage of prepare: the same, cut into passages on sentence borders and
written as ArrayRecord. Its start imports TensorFlow once for all stages, so it is subtracted and shown as
`start_cpu_seconds`. CPU-seconds are compared, since peers have helper processes. `ratio` is the peer's over ours, the
median over rounds.

growth: prepare runs without indices on dumps of several sizes. Each row has the seconds and peak memory of the process
(with Beam, of the largest of its processes), and beside them those of `text` alone (`reader`). The slope is that of log
CPU-seconds over log megabytes between the first size and the last. The CPU-seconds of each further megabyte leave out
the start. The toy grows by new articles and new words, a repeated dump by text alone. --texts bounds what the tokenizer
is trained on, which has a bound on a whole dump, too.
"""

import argparse
import bz2
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masksearch_jax.data import records

ROOT = Path(__file__).parent.parent
OURS = ("text", "passages")
PEERS = {
    "wikiextractor": "wikiextractor {dump} -o {out} --processes 1 -q --no-templates --json -b 100M",
    "segment_wiki": "python -m gensim.scripts.segment_wiki -f {dump} -o {out}.json.gz -w 1",
}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("peers", "growth", "text", "passages", "toy"))
    parser.add_argument("--dump", type=Path)
    parser.add_argument("--out", type=Path, help="of text, passages and toy, which are run by the other two")
    parser.add_argument("--copies", default="4", help="of the dump; several for growth")
    parser.add_argument("--entities", default="", help="of the toy, instead of a dump; several")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="folder of the programs of the peers' environment")
    parser.add_argument("--runner", default="", help="of Beam; '' for one process")
    parser.add_argument("--shard_mb", type=float, default=2.0)
    parser.add_argument("--texts", type=int, default=1000)
    args = parser.parse_args(argv)
    if args.what in ("text", "passages", "toy"):
        {"text": write_text, "passages": write_passages, "toy": write_toy}[args.what](args)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps((peers if args.what == "peers" else growth)(args, Path(folder))))


def peers(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the MB of XML per CPU-second of each program, and the ratios."""
    dump = folder / "dump.xml.bz2"
    megabytes = repeat(args.dump, int(args.copies), dump)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    commands = {name: f"{sys.executable} -m benchmarks.prepare {name} --dump={{dump}} --out={{out}}" for name in OURS}
    commands |= {name: f"{args.peers}/{command}" for name, command in PEERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peaks = dict.fromkeys(commands, 0.0)
    starting = [sys.executable, "-c", "import configs.prepare, masksearch_jax.prep.preparation"]
    start = statistics.median(run(starting)[0] for _ in range(args.rounds))
    for number in range(args.rounds):
        for name, command in commands.items():
            out = folder / f"{name}-{number}"
            used, peak = run(command.format(dump=dump, out=out).split())
            seconds[name].append(used)
            peaks[name] = max(peaks[name], round(peak, 1))
            found = [out] if out.is_file() else [*folder.glob(f"{out.name}*/**/*"), *folder.glob(f"{out.name}.*")]
            if not sum(path.stat().st_size for path in found if path.is_file()):
                raise SystemExit(f"{name} wrote nothing: {command.format(dump=dump, out=out)}")
    seconds["passages"] = [used - start for used in seconds["passages"]]
    ratios = {
        f"{ours} over {peer}": [round(a / b, 2) for a, b in zip(seconds[peer], seconds[ours], strict=True)]
        for ours in OURS
        for peer in PEERS
    }
    return {
        "what": "peers", "xml_mb": round(megabytes, 1), "copies": int(args.copies),
        "start_cpu_seconds": round(start, 1),
        "mb_per_cpu_second": {name: round(megabytes / statistics.median(found), 2) for name, found in seconds.items()},
        "peak_mb_of_the_largest_process": peaks,
        "ratio": {name: statistics.median(found) for name, found in ratios.items()}, "ratios": ratios,
    }  # fmt: skip


def growth(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return a row for each size, and the slope."""
    rows = []
    for size in (args.entities or args.copies).split(","):
        work = folder / size
        work.mkdir()
        settings = [f"--config.tokenizer.max_texts={args.texts}", "--config.indices=()", "--config.tasks.epochs=1"]
        if args.entities:
            run([sys.executable, "-m", "benchmarks.prepare", "toy", f"--entities={size}", f"--out={work}"])
            dump = work / "toy.xml.bz2"
            megabytes = len(bz2.decompress(dump.read_bytes())) / 1e6
            settings += [f"--config.splits={work / 'toy.splits.json'}", "--config.tokenizer.vocab_size=1362"]
        else:
            dump = work / "dump.xml.bz2"
            megabytes = repeat(args.dump, int(size), dump)
        if args.runner:
            settings += [f"--config.beam.runner={args.runner}", f"--config.beam.shard_mb={args.shard_mb}"]
        command = [sys.executable, "-m", "masksearch_jax.prepare", "--config=configs/prepare.py", *settings]
        cpu, peak = run([*command, f"--config.dump={dump}", f"--workdir={work / 'run'}"])
        text = [sys.executable, "-m", "benchmarks.prepare", "text", f"--dump={dump}", f"--out={work / 'text'}"]
        reading, reader_peak = run(text)
        report = json.loads((work / "run" / "data" / "report.json").read_text())
        rows.append({
            "size": int(size), "xml_mb": round(megabytes, 2), "passages": sum(report["passages"].values()),
            "seconds": report["seconds"], "cpu_seconds": round(cpu, 1), "peak_mb": round(peak, 1),
            "reader": {"cpu_seconds": round(reading, 1), "peak_mb": round(reader_peak, 1)},
        })  # fmt: skip
    first, last = rows[0], rows[-1]
    slope = math.log(last["cpu_seconds"] / first["cpu_seconds"]) / math.log(last["xml_mb"] / first["xml_mb"])
    more = [
        round((b["cpu_seconds"] - a["cpu_seconds"]) / (b["xml_mb"] - a["xml_mb"]), 2)
        for a, b in itertools.pairwise(rows)
    ]
    return {
        "what": "growth", "runner": args.runner or "one process", "rows": rows, "slope": round(slope, 2),
        "cpu_seconds_per_mb_more": more,
    }  # fmt: skip


def run(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; return its CPU-seconds and the peak memory in MB of the largest of its processes.

    The CPU-seconds include those of its children.
    """
    process, peak = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), 0
    while True:
        done, status, used = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        # Not ru_maxrss, which starts at what this process held when it started the command.
        peak = max(peak, *map(high_water, family(process.pid)))
        time.sleep(0.05)
    if status:
        raise SystemExit(f"{' '.join(command)}\nended with status {status}; its message stands above")
    return used.ru_utime + used.ru_stime, peak / 1e3


def family(pid: int) -> list[int]:
    """Return a process and all that it started, by their ids."""
    children = [p for file in Path(f"/proc/{pid}/task").glob("*/children") for p in read(file).split()]
    return [pid, *(member for child in children for member in family(int(child)))]


def high_water(pid: int) -> int:
    """Return the most memory that a process has held so far, in kB; 0 if it is gone."""
    found = re.search(r"VmHWM:\s+(\d+) kB", read(Path(f"/proc/{pid}/status")))
    return int(found[1]) if found else 0


def read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # the process has just ended
        return ""


def repeat(dump: Path, copies: int, out: Path) -> float:
    """Write a dump with its pages `copies` times, under distinct titles; return its megabytes of XML."""
    text = bz2.decompress(dump.read_bytes())
    first, last = text.index(b"<page>"), text.rindex(b"</page>") + len(b"</page>\n")
    written = 0
    with bz2.open(out, "wb") as file:
        written += file.write(text[:first])
        for copy in range(copies):
            pages = text[first:last]
            if copy:
                pages = re.sub(rb"</title>", b" (%d)</title>" % copy, pages)
            written += file.write(pages)
        written += file.write(text[last:])
    return written / 1e6


def write_text(args: argparse.Namespace) -> None:
    from masksearch_jax.prep.wiki import dump_reader, wikitext

    with args.out.open("w", encoding="utf-8") as file:
        for article in dump_reader.articles(args.dump):
            document = wikitext.clean(article.wikitext, article.title)
            paragraphs = [(p.text, [(a.start, a.end, a.target) for a in p.anchors]) for p in document.paragraphs]
            file.write(json.dumps([article.title, paragraphs, document.categories, document.infobox]) + "\n")


def write_passages(args: argparse.Namespace) -> None:
    from configs import prepare as page
    from masksearch_jax.prep.spans import annotated_passages
    from masksearch_jax.prep.splits import Splits
    from masksearch_jax.prep.wiki import dump_files, dump_reader

    config = page.get_config()
    articles = dump_files.read_articles([args.dump], False, dump_reader.DumpStats())
    splits = Splits("", config.shares, 0)
    links = args.out.with_suffix(".links")
    records.write(args.out, annotated_passages.cut_articles(articles, splits, config.passages, links))


def write_toy(args: argparse.Namespace) -> None:
    from configs import prepare as page
    from masksearch_jax import toywiki

    toywiki.generate(args.out, int(args.entities), 0, page.get_config().shares.to_dict())


if __name__ == "__main__":
    main(sys.argv[1:])
