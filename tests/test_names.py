"""Words that this project used for itself and the field does not: none comes back as an identifier or a file."""

import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Old word -> what is said instead.
GONE = {
    "job_lib": "RunContext", "Job": "RunContext", "rung": "bucket_for", "ladder": "buckets", "Owners": "SlotSharding",
    "annals": "corroborating articles", "gives_away": "is_leaked", "HardSpans": "PerplexitySpans",
    "entitle": "prepend_title", "enclose": "add_control_tokens", "WordIndex": "BM25Index", "Listed": "ExcludeById",
    "ByText": "ExcludeByText", "Collected": "RolloutBatch", "registers": "decode_state", "meanwhile": "overlap",
    "append_rows": "extend_rows", "append_tokens": "extend_tokens", "twin": "baseline", "OracleConfig": "TeacherConfig",
}  # fmt: skip
FILES = {
    "job", "entry", "oracle", "annals", "elsewhere", "guessing", "hard_spans", "owners", "shapes", "searches", "stops",
    "agreement", "collect", "folder", "imported", "official", "answers", "view", "shown", "pieces", "sampling",
}  # fmt: skip


def test_no_old_word_is_an_identifier():
    found = []
    for path in [*(ROOT / "masksearch_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.NAME and token.string in GONE:
                place = f"{path.relative_to(ROOT)}:{token.start[0]}"
                found.append(f"{place}: {token.string}, say {GONE[token.string]}")
    assert not found, "\n".join(found)


def test_no_old_word_is_a_file():
    assert not {path.stem for path in (ROOT / "masksearch_jax").rglob("*.py")} & FILES
