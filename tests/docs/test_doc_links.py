"""Links, anchors, pictures, paths and quoted messages of the documentation exist. mkdocs checks its own pages again."""

import ast
import re

import doc_pages
import pytest
import yaml

ROOT = doc_pages.ROOT
PAGES = doc_pages.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page):
    missing = []
    for target in doc_pages.links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in doc_pages.anchors(file)):
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_holds_the_marks_of_an_unfinished_merge(page):
    marks = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(("<<<<<<<", ">>>>>>>"))]
    assert marks == []


def test_every_page_is_in_the_navigation():
    def files(entries):
        for entry in entries:
            for value in entry.values():
                yield from files(value) if isinstance(value, list) else [value]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = list(files(site["nav"]))
    there = {str(page.relative_to(doc_pages.DOCS)) for page in doc_pages.DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(there)
    assert site["strict"] and site["theme"]["font"] is False  # warnings are errors, and nothing is fetched


def test_every_figure_is_shown():
    shown = {(page.parent / target).resolve() for page in PAGES for target in doc_pages.links(page)}
    assert not [figure for figure in doc_pages.DOCS.glob("figures/*") if figure.resolve() not in shown]


def test_paths_in_prose_exist():
    """Paths of ours in code spans: from the root, from docs/, or from the package."""
    bases = (ROOT, ROOT / "masksearch_jax", ROOT / "tests")
    missing = []
    for page in PAGES:
        for span in doc_pages.code_spans(page):
            if re.fullmatch(r"[a-z_]+(/[\w.-]+)*/[\w-]+\.(py|sh|md|txt|ipynb|yaml|npz|svg)", span):
                missing += [] if any((base / span).exists() for base in bases) else [f"{page.name}: {span}"]
    assert not missing


def test_the_table_of_places_is_right():
    (table,) = [t for t in doc_pages.tables((doc_pages.DOCS / "index.md").read_text()) if t[0][0] == "question"]
    assert len(table) > 12
    for _, place, name in table[1:]:
        path, name = ROOT / re.match(r"`([^`]+)`", place)[1], name.strip("`")
        text = path.read_text()
        if path.suffix == ".py" and path.parent.name != "configs":
            tree = ast.parse(text)
            defined = {getattr(node, "name", "") for node in tree.body}
            defined |= {
                t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if hasattr(t, "id")
            }
            assert name in defined, f"{path} has no {name}"
        else:
            assert name in text, f"{path} does not have {name}"


def test_quoted_messages_are_those_of_the_code():
    """Messages in the first column of troubleshooting.md stand in the code; '..' stands for names and values."""
    said = []
    for folder in ("masksearch_jax", "launch"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                said.append(_text(node))
    said = "\n".join(filter(None, said)) + "\n".join(file.read_text() for file in (ROOT / "launch").glob("*.sh"))
    keys = (doc_pages.DOCS / "metrics.md").read_text()
    unknown = []
    for table in doc_pages.tables((doc_pages.DOCS / "troubleshooting.md").read_text()):
        for row in table[1:]:
            for message in re.findall(r"`([^`]+)`", row[0]):
                parts = [part.strip() for part in message.split("..")]
                if f"`{message}`" not in keys and not all(part in said for part in parts):
                    unknown.append(message)
    assert not unknown


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
