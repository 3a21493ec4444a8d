"""Wikitext in pieces, of which the fuzzers compose pages: nested, broken, and repeated to any length."""

from hypothesis import strategies as st

PIECES = [
    # markup that opens, and markup that closes
    "{{", "}}", "[[", "]]", "{|", "|}", "|", "|-", "||", "\n{|\n", "\n|}\n", "{{{", "}}}", "[", "]", "[http://x.org ",
    "''", "'''", "<ref>", "</ref>", "<ref name=x />", "<ref ", "<!--", "-->", "<nowiki>", "</nowiki>", "<math>",
    "</math>", "<pre>", "</pre>", "<table>", "</table>", "<s>", "</s>", "<br>", "<br", "<div", "<sup>2</sup>", "<sup",
    "</", "<", ">", "<includeonly>", "</includeonly>", "<noinclude>", "<onlyinclude>", "</noinclude>", "__TOC__",
    "__",
    # whole ones
    "[[a|b]]", "[[a|(b]]", "[[a|b)]]", "[[a]]s ", "[[File:a.jpg|thumb|b]]", "[[Category:a in b]]", "[[Category:",
    "[[File:", "[[:", "[[a|b\n*c]]", "[[de:a]]", "[[wikt:a|b]]", "{{convert|1|km}}", "{{convert|", "{{chem2|H2O}}",
    "{{chem2|", "{{lang|fr|a}}", "{{nowrap|", "{{mystery}}", "{{IPA|a}}", "{{Infobox a|b=c}}", "{{Infobox a|b=",
    "{{as of|", "{{formatnum:", "{{val|", "a=b|", "{{sfn|a}}", "{{quote|",
    # lines
    "\n", "\n\n", "\n=", "=", "\n== a ==\n", "\n==References==\n", "\n* ", "\n: ", "\n; ", "\n#", "\n ", "\r\n",
    "----", "\x85",
    # prose, with what the rules of sentences, dates, numbers and names look at
    " ", "  ", "\t", "\u3000", "\xa0", "A", "a", "A b. ", "Abc Def is it. ", "a, ", "(", ")", " (", "( ", ")(", ",",
    ";", ":", ".", ". ", ", ;", ",,", "!", "? ", "\"", "“", "”", "'", "’s ", "-", "–", "−", "1", "1,", "1.", "12 ",
    "1823 ", "3 May 1823", "5th century ", "$3.5 million ", "km (", "10 km (6 mi) ", "U.S. ", "J. R. ", "A.",
    "(Abcd)", "Abcde ", "Abcdef-", "x1", "in the ", "by ", "http://", "https://a.b/", "&", "&#", "&#9", "&amp;",
    "&nbsp;", "&#x41;", "pron ", "as ", "É", "é", "字", "。", "।", "\u0301", "\u0323", "\u0f73", "\u200b", "\ufeff",
    "\x01", "\x05",
]  # fmt: skip

shapes = st.tuples(
    st.lists(st.sampled_from(PIECES), max_size=2).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=2).map("".join),
)
"""(beginning, what is repeated, end)."""

_flat = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map("".join)
_PAIRS = [
    ("{{", "}}"), ("[[", "]]"), ("\n{|\n|", "\n|}\n"), ("<ref>", "</ref>"), ("<!--", "-->"), ("<table>", "</table>"),
    ("<nowiki>", "</nowiki>"), ("<includeonly>", "</includeonly>"), ("(", ")"), ("[[File:a|", "]]"), ("''", "''"),
]  # fmt: skip
pages = st.recursive(
    _flat,
    lambda inner: st.lists(
        st.tuples(st.sampled_from(_PAIRS), inner, st.booleans()).map(
            lambda made: made[0][0] + made[1] + made[0][1] * made[2]
        )
        | inner,
        min_size=1,
        max_size=4,
    ).map("".join),
    max_leaves=12,
)
"""Wikitext, nested and broken."""


def repeated(shape: tuple[str, str, str], size: int) -> str:
    beginning, piece, end = shape
    return beginning + piece * (size // len(piece) + 1) + end
