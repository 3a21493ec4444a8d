"""Audits the dependencies: known vulnerabilities of the pinned versions, and the licences of what is installed.

bash launch/audit.sh                      sets up the extra `evidence`, then runs this file
python launch/audit.py --licences         the whole list of licences, one package a line

pip-audit asks the package index for advisories on each pin of launch/constraints.txt. Indices that mirror packages
only have none; the pins then count as not audited, which is said and never taken for a clean result. A licence is
accepted if each of its alternatives' parts is in ACCEPTED.

Exit status: 0 all is in order, 1 a known vulnerability or a licence to look at, 3 the index has no advisories (and the
licences are in order).
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
NOT_AUDITED = 3
# All may be used beside Apache-2.0. MPL-2.0 is by file: changes of its own files would have to be published.
ACCEPTED = {
    "0BSD", "AFL-2.1", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "HPND", "ISC",
    "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "ZPL-2.1",
}  # fmt: skip
# What packages write in place of the SPDX names.
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "UNKNOWN": "",
}
# Read in the package's own LICENSE file, as its metadata names none: package -> licence.
READ = {"namex": "Apache-2.0"}
# Tools of the extra `evidence`, which the package never imports: package -> why its licence does no harm.
TOOLS = {"yattag": "LGPL; cosmic-ray writes its own reports with it"}


def pins(text: str) -> list[str]:
    """Return the `name==version` lines of a constraints file, those for one Python version with their marker."""
    lines = (line.partition(" #")[0].strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if re.match(r"[A-Za-z0-9._-]+==", line)))


def vulnerabilities(found: dict) -> tuple[list[str], list[str]]:
    """Return (one sentence per known vulnerability, the packages that were not audited) of pip-audit's JSON."""
    known, skipped = [], []
    for package in found["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["name"])
        for one in package.get("vulns", ()):
            fixed = ", ".join(one["fix_versions"]) or "no version"
            known.append(f"{package['name']} {package['version']}: {one['id']}, mended in {fixed}")
    return known, skipped


def audit(names: list[str]) -> dict:
    """Return pip-audit's JSON for pins. Raises RuntimeError if it says nothing that can be read."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(names) + "\n")
        file.flush()
        flags = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", "-r", file.name]
        done = subprocess.run([sys.executable, "-m", "pip_audit", *flags], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"pip-audit did not finish: {last}") from None


def licence(distribution: importlib.metadata.Distribution) -> str:
    """Return the licence that a package's metadata states, in SPDX's names where they are known, '' for none."""
    said = distribution.metadata
    expression = said.get("License-Expression") or ""
    if expression:
        return expression
    classifiers = [one.split("::")[-1].strip() for one in said.get_all("Classifier") or [] if "License ::" in one]
    written = (said.get("License") or "").strip().splitlines()
    stated = [one for one in classifiers if one != "OSI Approved"] or written[:1]
    stated = [SPELLINGS.get(one, one) for one in stated]
    return " AND ".join(one for one in stated if one) or READ.get(said["Name"], "")


def is_accepted(expression: str) -> bool:
    """Return True if one alternative of an SPDX expression has accepted parts only."""
    bare = re.sub(r"\s+WITH\s+\S+(?<!\))", "", expression)
    while (inner := re.search(r"\(([^()]*)\)", bare)) and bare not in ACCEPTED:
        bare = bare[: inner.start()] + ("MIT" if is_accepted(inner[1]) else "no") + bare[inner.end() :]
    return any(all(one.strip() in ACCEPTED for one in way.split(" AND ")) for way in bare.split(" OR "))


def installed() -> Iterator[tuple[str, str, str]]:
    """Yield (name, version, licence) of every installed package but this one, by name."""
    found = {d.metadata["Name"]: d for d in importlib.metadata.distributions()}
    for name in sorted(found, key=str.lower):
        if name and name.lower().replace("-", "_") != "masksearch_jax":
            yield name, found[name].version, licence(found[name])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--licences", action="store_true", help="print the licence of every installed package, and end")
    if parser.parse_args().licences:
        for name, version, stated in installed():
            print(f"{name}=={version}: {stated or 'none stated'}")
        return 0

    every = list(installed())
    counts = Counter(stated or "none stated" for _, _, stated in every)
    print(f"licences of {len(every)} installed packages: " + ", ".join(f"{n} {one}" for one, n in counts.most_common()))
    odd = [f"{name} {version}: {stated or 'none stated'}" for name, version, stated in every if not is_accepted(stated)]
    odd = [one for one in odd if one.split()[0] not in TOOLS]
    for one in odd:
        print(f"licence to look at: {one}")

    names = pins(CONSTRAINTS.read_text())
    try:
        known, skipped = vulnerabilities(audit(names))
    except RuntimeError as error:
        print(error)
        known, skipped = [], names
    for one in known:
        print(f"vulnerability: {one}")
    print(f"pip-audit: {len(names) - len(skipped)} of {len(names)} pins audited, {len(known)} known vulnerabilities")
    if skipped:
        print("not audited, as the package index has no advisories on them: " + " ".join(skipped[:8]) + " ..")
    if known or odd:
        return 1
    return NOT_AUDITED if len(skipped) == len(names) else 0


if __name__ == "__main__":
    sys.exit(main())
