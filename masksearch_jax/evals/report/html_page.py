"""Write a report page as one HTML file without URLs or companion files. It is readable on a phone, in light and dark.

The template escapes every text of the page, since retrieved passages and what a policy wrote are data. The content
security policy names the page's one script, the filter of settings, by its hash. Nothing else runs or loads, even if a
text slipped through unescaped. jinja2 is imported when a page is written.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from masksearch_jax.evals.report import svg_charts
from masksearch_jax.evals.report.episode_samples import marked
from masksearch_jax.evals.report.sections import Page
from masksearch_jax.runtime.types import Json
from masksearch_jax.text import tags

_TEMPLATES = Path(__file__).parent / "templates"


def write(path: Path | str, page: Page) -> Path:
    """Write the page atomically, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render(page), encoding="utf-8")
    partial.replace(path)
    return path


def write_charts(folder: Path | str, page: Page) -> list[Path]:
    """Write every chart as an SVG file `<section>_<chart>.svg`, and return the paths.

    Raises ImportError that says what to install.
    """
    style, paths = (_TEMPLATES / "page.css").read_text(encoding="utf-8"), []
    colours = style[: style.index("* {")]  # of the light and the dark theme
    for section in page.sections:
        for chart in section.charts:
            name = re.sub(r"[^a-z0-9]+", "_", f"{section.title} {chart.title}".lower()).strip("_")
            paths.append(Path(folder) / f"{name}.svg")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_text(svg_charts.file(chart, colours), encoding="utf-8")
    return paths


def render(page: Page) -> str:
    """Return the page as HTML. The same page gives the same text. Raises ImportError that says what to install."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("report.html needs jinja2: pip install -c launch/constraints.txt '.[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    keys = svg_charts.keys()
    environment.globals.update(
        marked=marked,
        masked=lambda text: marked(text, [[tags.MASK]]) if tags.MASK in text else [(text, False)],
        svg=lambda chart: environment.filters["safe"](svg_charts.svg(chart, next(keys))),
        tree=tree,
    )
    script = (_TEMPLATES / "filter.js").read_text(encoding="utf-8")
    template = environment.get_template("page.html.j2")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    return template.render(page=page, style=style, script=script, digest=digest)


def tree(settings: Mapping[str, Json], prefix: str = "") -> list[tuple[str, str, str, list]]:
    """Return (name, dotted path, value as text, children) of each entry. A mapping has children and no value."""
    found = []
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            found.append((str(name), path, "", tree(value, path + ".")))
        else:
            found.append((str(name), path, json.dumps(value, ensure_ascii=False, default=str), []))
    return found
