"""The page of the viewer: its HTML, style and scripts, as separate files for the server or joined for one file.

The scripts are ES modules that import each other by name. Joined into one script, each becomes a function that returns
what the module exports, and an import reads it from there.
"""

import base64
import hashlib
import json
import re
from pathlib import Path

from masksearch_jax.runtime.types import Json

FOLDER = Path(__file__).parent / "static"
PAGE, STYLE = "index.html", "viewer.css"
# In the order in which they may be joined: each imports only from those before it.
SCRIPTS = (
    "dom.js", "address.js", "backend.js", "marks.js", "tokens.js", "episode.js", "list.js", "group.js", "compare.js",
    "curves.js", "help.js", "main.js",
)  # fmt: skip
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEAD = "<!-- head -->"
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const) (\w+))", re.MULTILINE)


def read(name: str) -> bytes | None:
    """Return a file of the page, None for any other name."""
    return (FOLDER / name).read_bytes() if name in (PAGE, STYLE, *SCRIPTS) else None


def served_page() -> str:
    """Return the page that loads its style and scripts from the server."""
    head = f'<link rel="stylesheet" href="/{STYLE}">\n<script type="module" src="/{SCRIPTS[-1]}"></script>'
    return _page().replace(_HEAD, head)


def joined_page(data: Json) -> str:
    """Return the page with style, scripts and `data` inside. Its policy lets nothing else run, and nothing load."""
    style = (FOLDER / STYLE).read_text(encoding="utf-8")
    # A text may spell '</script>' or '<!--'; in JSON '<' may be written as an escape.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    script = joined_script()
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; base-uri 'none'; "
        "form-action 'none'"
    )
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>\n'
        f'<script type="application/json" id="embedded">{embedded}</script>\n<script type="module">{script}</script>'
    )
    return _page().replace(_HEAD, head)


def joined_script() -> str:
    """Return all modules as one."""
    parts = []
    for name in SCRIPTS:
        text = (FOLDER / name).read_text(encoding="utf-8")
        exported = ", ".join(found for _, found in _EXPORT.findall(text))
        text = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = module_\2;", text))
        parts.append(f"const module_{name.removesuffix('.js')} = (() => {{\n{text}\nreturn {{ {exported} }};\n}})();")
    return "\n".join(parts)


def _page() -> str:
    return (FOLDER / PAGE).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
