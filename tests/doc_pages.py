"""The pages of the documentation: their files, fenced blocks, headings and links. No mkdocs."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block. reason: why it is not run, from the comment `<!-- not run: reason -->` above it, or ''."""

    page: Path
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    return [
        *sorted(DOCS.rglob("*.md")),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
    ]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, without the indentation of their fence."""
    found, inside, body, above = [], None, [], ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if inside is None:
            if fence:
                inside, body = (number, fence[1], fence[2]), []
            elif line.strip():
                above = line
        elif fence and not fence[2]:
            reason = _NOT_RUN.search(above)
            found.append(Block(page, inside[0], inside[2], "\n".join(body), reason[1] if reason else ""))
            inside, above = None, ""
        else:
            body.append(line.removeprefix(inside[1]))
    assert inside is None, f"{page}: the block of line {inside[0]} is not closed"
    return found


def prose(page: Path) -> str:
    """Return the text of a page without its fenced blocks."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            lines.append(line)
    return "\n".join(lines)


def code_spans(page: Path) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs names them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), flags=re.M):
        plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        number, name = 0, slug
        while name in found:
            number += 1
            name = f"{slug}_{number}"
        found.add(name)
    return found


def links(page: Path) -> list[str]:
    """Return the targets of links and images that are not addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"https?:", target)]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables in Markdown text as rows of cells, the header first and without the rule below it."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        elif rows:
            found.append([row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)])
            rows = []
    return found
