"""Compile the configs of every recipe, one after the other, and print the tables of docs/recipes.md as Markdown.

    python -m benchmarks.recipes --folder=DIR                      all SFT and DAPO configs that DIR lacks; then tables
    python -m benchmarks.recipes --folder=DIR --match='qwen2.5-7b$' --only=        every program of these configs
    python -m benchmarks.recipes --folder=DIR --tables --price=v5e:1.2,v5p:4.2,v6e:2.7

In: configs/recipes.py, libtpu (pip install -c launch/constraints.txt -e '.[tpu]'); no TPU. Out: DIR/<config>.json and
.log of `python -m masksearch_jax.compile`, and the tables on stdout. Each config is compiled by a process of its own,
so that a killed run goes on where it was. A config that does not fit is named on stderr and makes the exit status 1.
Prices are the caller's, per chip-hour: none is built in.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from configs import recipes
from masksearch_jax.aot import costs, topologies


def pages() -> list[str]:
    """Return 'sft.py:<recipe>' and 'dapo.py:<recipe>' for every recipe, in the order of configs/recipes.py."""
    return [f"{page}.py:{name}" for name in recipes.RECIPES for page in ("sft", "dapo")]


def result_file(folder: Path, page: str) -> Path:
    return folder / f"{page.replace(':', '_')}.json"


def compile_page(page: str, folder: Path, only: str) -> bool:
    """Compile one config into `folder`; return False if that failed, with the last line of its log on stderr."""
    out = result_file(folder, page)
    command = [sys.executable, "-m", "masksearch_jax.compile", f"--config=configs/{page}", f"--only={only}"]
    with out.with_suffix(".log").open("w") as log:
        done = subprocess.run([*command, f"--json={out}"], stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = out.with_suffix(".log").read_text().strip().splitlines()[-1:]
        print(f"{page}: exit status {done.returncode}: {' '.join(said)}", file=sys.stderr, flush=True)
    return not done.returncode


def fit_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table with a row for each config: where it runs, what it needs of a chip, what its step costs."""
    lines = [
        "| config | slice | chips | resident | peak | of the chip | in | TFLOP a step and chip | compile, CPU-s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for page, found in results.items():
        largest = max(found["programs"], key=lambda p: p["peak_bytes"])
        steps = [f"{p['flops'] / 1e12:.0f}" for p in found["programs"] if p["name"].endswith("_step")]
        seconds = [p["compile_cpu_seconds"] for p in found["programs"]]
        slices = f"{found['slices']} x " if found["slices"] > 1 else ""
        lines.append(
            f"| {page} | {slices}{topologies.parse(found['topology']).marketing_name} | {found['chips']} "
            f"| {_gib(found['resident_bytes'])} | {_gib(found['peak_bytes'])} "
            f"| {found['peak_bytes'] / found['hbm_limit_bytes']:.0%} | {largest['name']} | {' '.join(steps) or '-'} "
            f"| {max(seconds):.0f} of {sum(seconds):.0f} |"
        )
    return lines


def program_table(page: str, found: dict[str, Any]) -> list[str]:
    """Return a table with a row for each program of one config."""
    lines = [
        f"| {page} | phase | arguments | results | temporary | peak | TFLOP | collectives, GB | compile, s (CPU) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for p in found["programs"]:
        moved = sum(size for _, size in p["collectives"].values()) / 1e9
        lines.append(
            f"| {p['name']} | {p['phase']} | {_gib(p['arguments'])} | {_gib(p['results'])} | {_gib(p['temporaries'])} "
            f"| {_gib(p['peak_bytes'])} | {p['flops'] / 1e12:.3g} | {moved:.3g} | {p['compile_cpu_seconds']:.0f} |"
        )
    return lines


def cost_table(results: dict[str, dict[str, Any]], prices: dict[str, float]) -> list[str]:
    """Return a table with a row for each stage and config.

    A row has the chip-hours of the paper's scale, the days on the slice, and the bill at the given prices.
    """
    lines = [
        "| what | config | chip-hours | days on the slice | price of a chip-hour | bill |",
        "|---|---|---|---|---|---|",
    ]
    for stage in costs.ASSUMED:
        for page, found in results.items():
            if hours := found["chip_hours"].get(stage):
                generation = topologies.parse(found["topology"]).generation.name
                price = prices.get(generation)
                bill = "- | -" if price is None else f"{price:.2f} | {price * hours:,.0f}"
                lines.append(f"| {stage} | {page} | {hours:,.0f} | {hours / found['chips'] / 24:.1f} | {bill} |")
    return lines


def read_prices(given: list[str]) -> dict[str, float]:
    """Return {'v5p': 4.2} for ['v5p:4.2']; raise ValueError for an unknown generation or no number."""
    prices = {}
    for item in given:
        name, _, price = item.partition(":")
        if name not in topologies.GENERATIONS:
            raise ValueError(f"--price={item}: generations are {', '.join(topologies.GENERATIONS)}, as in v5p:4.2")
        prices[name] = float(price)
    return prices


def _gib(size: float) -> str:
    return f"{size / topologies.GIB:.2f}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Compile the configs of every recipe and prints their tables.")
    parser.add_argument("--folder", type=Path, required=True, help="where the configs' results are kept")
    parser.add_argument("--match", default="", help="only configs, as dapo.py:qwen2.5-7b, that match this expression")
    parser.add_argument("--only", default="_step|^decode$|decode_copy", help="programs of a config; '' is all")
    parser.add_argument("--tables", action="store_true", help="compile nothing; print the tables of what is there")
    parser.add_argument("--price", default="", help="of a chip-hour by generation, such as v5e:1.2,v5p:4.2")
    chosen = parser.parse_args(arguments)
    prices = read_prices([item for item in chosen.price.split(",") if item])
    chosen.folder.mkdir(parents=True, exist_ok=True)
    wanted = {page: result_file(chosen.folder, page) for page in pages() if re.search(chosen.match, page)}
    missing = [] if chosen.tables else [page for page, file in wanted.items() if not file.exists()]
    failed = []
    for number, page in enumerate(missing, 1):
        print(f"{number}/{len(missing)} {page}", file=sys.stderr, flush=True)
        if not compile_page(page, chosen.folder, chosen.only):
            failed.append(page)
    results = {page: json.loads(file.read_text()) for page, file in wanted.items() if file.exists()}
    print("\n".join(fit_table(results)))
    for page, found in results.items():
        if len(found["programs"]) > 3:
            print("\n" + "\n".join(program_table(page, found)))
    print("\n" + "\n".join(cost_table(results, prices)))
    if failed:
        raise SystemExit(f"recipes: {len(failed)} of {len(missing)} configs failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
