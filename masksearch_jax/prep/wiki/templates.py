"""What a reader sees of a template call: name and arguments go in, the text that it shows comes out.

Outcomes: text (the templates that format a few words), '' (notes, citations, maintenance tags: invisible in the prose),
PRONUNCIATION, and HOLE (everything else: it showed something that we do not have). wikitext.py removes the clause or
sentence around a hole, so an unknown template costs a sentence and never leaves "an area of  with" behind. Left out:
fetching template definitions, parser functions, anything computed (ages, inflation).
"""

import re
from collections.abc import Callable

from masksearch_jax.prep.wiki import unit_templates

# Markers of what was recognised. Control characters cannot occur in XML 1.0, and so not in wikitext.
LINK_OPEN, LINK_MIDDLE, LINK_CLOSE = "\x01", "\x02", "\x03"
HOLE = "\x05"  # something was shown here that is lost
PRONUNCIATION = "\x07"  # lost as well, but the sentence reads well without it
LITERAL_QUOTE = "\x04"  # an apostrophe that is not part of italics
BREAK = "\x06"  # the end of a paragraph

Arguments = Callable[[list[str], dict[str, str]], str]

_INVISIBLE = re.compile(
    r"cit(?:e|ation)\b|vcite|sfn|harv|ref(?:n|label| label|list|begin|end)?$|#tag|efn|e?notetag|note(?: label)?$|r$|rp$"
    r"|cn$|fact$|clarif|who\b|whom|by whom|when|where|which|why|verify|vague|dubious|discuss|disputed|contradict"
    r"|specify|weasel|or$|original research|pov|unreliable|unreferenced|dead ?link|webarchive|wayback|full$|failed"
    r"|attribution|according to whom|example needed|lead extra|relevance|request|inconsistent|speculation|self-publ"
    r"|anchor|use \w+ (?:dates|english)|pp(?:-|$)|short description|defaultsort|displaytitle|italic title"
    r"|coord missing|expand|update|undue|peacock|tone$|jargon|sic\?|isbn|issn|oclc|doi|pmid|flagicon|flag icon|zwj|zwnj"
    r"|shy$|wj$|nowrap (?:begin|end)|crossreference|better source|third-party|primary source|page number"
    r"|\w\w icon$|\w\w\w icon$|language icon|cref|ref-|authority control|portal|commons|clear|toc|div col|col-|end$"
)
_NEEDED = re.compile(r"needed\b|inline$|-inline\b|source\?")
_BLOCKS = {"quote", "quotation", "quote box", "quotebox", "cquote", "rquote", "pull quote", "blockquote", "bq", "poem"}
_BLOCKS |= {"centered pull quote", "poemquote", "verse translation", "gallery", "listen", "multiple image", "clade"}
_LITERAL = {
    "!": "|", "=": "=", "'s": "'s", "'": "'", "'-": "'", "' \"": "' \"", "\" '": "\" '", "'\"": "'\"", "-\"": "\"",
    "\"'": "\"'", "`": "'", "’s": "’s", "ndash": "–", "–": "–", "en dash": "–", "mdash": "—", "—": "—", "em dash": "—",
    "spaced ndash": " – ", "spaced en dash": " – ", "spnd": " – ", "snd": " – ", "snds": " – ", "dash": " – ",
    "spaced mdash": " — ", "mdashb": "—", "nbsp": " ", "space": " ", "spaces": " ", "thinsp": " ", "hsp": " ",
    "hair space": " ", "pipe": "|", "nbhyph": "-", "nbh": "-", "·": " · ", "dot": " · ", "bullet": " · ", "•": " · ",
    "middot": " · ", "okina": "ʻ", "hamza": "ʾ", "ayin": "ʿ", "degree": "°", "deg": "°", "pi": "π", "euro": "€",
    "pound": "£", "times": "×", "pm": "±", "eqm": "⇌", "carbon": "C", "oxygen": "O", "hydrogen": "H", "nitrogen": "N",
}  # fmt: skip
# Templates that format their first (_FIRST) or last (_LAST) argument; the others are options, tooltips or sort keys.
_FIRST = """nowrap nobr nobreak small smaller big large larger noitalic nobold bold italic i b em strong sc sc1
 smallcaps small_caps smaller_all_caps abbr abbrv tooltip vanchor visible_anchor unicode polytonic hebrew nastaliq flag
 flagcountry flagu flag_country code mono var mvar math samp kbd tt longitem proper_name underline u ipa ipalink
 ipa_link keypress key_press illm ill2 vr grapheme phoneme"""
_LAST = """lang transl transliteration native_name resize rtl-lang color colour font_color script audio lang-text
 fontcolor background_color highlight raise"""
_FIRST_NAMES = {name.replace("_", " ") for name in _FIRST.split()}
_LAST_NAMES = {name.replace("_", " ") for name in _LAST.split()}
_LANGUAGES = dict(
    pair.split("=")
    for pair in """
    ar=Arabic az=Azerbaijani be=Belarusian ber=Berber bg=Bulgarian bn=Bengali bs=Bosnian ca=Catalan cs=Czech cy=Welsh
    da=Danish de=German el=Greek en=English eo=Esperanto es=Spanish et=Estonian eu=Basque fa=Persian fi=Finnish
    fr=French ga=Irish gd=Gaelic gl=Galician grc=Greek he=Hebrew hi=Hindi hr=Croatian hu=Hungarian hy=Armenian
    id=Indonesian is=Icelandic it=Italian ja=Japanese ka=Georgian kk=Kazakh ko=Korean ku=Kurdish la=Latin lt=Lithuanian
    lv=Latvian mk=Macedonian mn=Mongolian ms=Malay nl=Dutch no=Norwegian pl=Polish ps=Pashto pt=Portuguese ro=Romanian
    ru=Russian sa=Sanskrit sk=Slovak sl=Slovene sq=Albanian sr=Serbian sv=Swedish sw=Swahili ta=Tamil th=Thai
    tr=Turkish uk=Ukrainian ur=Urdu uz=Uzbek vi=Vietnamese yi=Yiddish zh=Chinese
    """.split()
)
_MONTHS = "January February March April May June July August September October November December".split()
_SUPERSCRIPT = str.maketrans("0123456789+-−–n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻ⁿ")
_SUBSCRIPT = str.maketrans("0123456789+-−–", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋")


def expand(name: str, args: list[str], named: dict[str, str], title: str) -> str:
    """Return the shown text of `{{name|args|named}}`, '' for invisible templates, or HOLE.

    `name` is in lower case with single spaces. The arguments are stripped, and their links and quotes may still be
    markup. `title` is the article's, for {{PAGENAME}}.
    """
    if name in _LITERAL:
        return _LITERAL[name].replace("'", LITERAL_QUOTE)
    if name in _FORMATS:
        return _FORMATS[name](args, named)
    if name in _FIRST_NAMES:
        return args[0] if args else ""
    if name in _LAST_NAMES or name.startswith(("script/", "ipa-")):
        return args[-1] if args else ""
    if name.startswith("lang-"):
        label = _LANGUAGES.get(name[5:])
        text = args[0] if args else ""
        return f"{label}: {text}" if label and text else text
    if name in ("pagename", "fullpagename", "basepagename"):
        return title
    if name.startswith("formatnum:"):
        return unit_templates.group_digits(name[len("formatnum:") :].strip())
    if name.startswith(("ipac-", "respell", "pronunciation", "pron-", "audio-ipa")):
        return PRONUNCIATION
    if name in _BLOCKS:
        return BREAK
    if _INVISIBLE.match(name) or _NEEDED.search(name):
        return ""
    return HOLE


def superscript(text: str) -> str:
    """Return the text raised if Unicode has all of its characters, else unchanged."""
    return _moved(text, _SUPERSCRIPT)


def subscript(text: str) -> str:
    """Return the text lowered if Unicode has all of its characters, else unchanged."""
    return _moved(text, _SUBSCRIPT)


def _moved(text: str, table: dict[int, int]) -> str:
    plain = text.strip().strip("'")
    return plain.translate(table) if plain and all(ord(c) in table for c in plain) else text


def _as_of(args: list[str], named: dict[str, str]) -> str:
    """Return 'As of April 2010' for {{as of|2010|4}}."""
    if "alt" in named:
        return named["alt"]
    words = ("Since " if "since" in named else "As of ") + _date(args, {"df": "y"})
    return words[0].lower() + words[1:] if named.get("lc") else words


def _date(args: list[str], named: dict[str, str]) -> str:
    """Return (year, month, day) in the order that most articles use; return a text argument as it is."""
    parts = [a for a in args if a][:3]
    if not parts:
        return ""
    year = parts[0]
    month = parts[1] if len(parts) > 1 else ""
    if re.fullmatch(r"[0-9]{1,2}", month) and 1 <= int(month) <= 12:
        month = _MONTHS[int(month) - 1]
    elif month and month.title() not in _MONTHS:
        return year
    day = parts[2].lstrip("0") if len(parts) > 2 and parts[2].isdigit() else ""
    if not day:
        return f"{month} {year}".strip()
    return f"{day} {month} {year}" if named.get("df", "").startswith("y") else f"{month} {day}, {year}"


def _chem(args: list[str], _: dict[str, str]) -> str:
    """Return SO₄²⁻ for {{chem|SO|4|2-}}: numbers are lowered, charges raised."""
    out = []
    for arg in args:
        arg = arg.strip("'")
        charge = re.fullmatch(r"\d*[+\-−–]", arg)
        out.append(superscript(arg) if charge else subscript(arg))
    return "".join(out)


def _chem2(args: list[str], _: dict[str, str]) -> str:
    """Return H₂O for {{chem2|H2O}}."""
    text = args[0] if args else ""
    text = re.sub(r"(?<=[A-Za-z)\]])\d+", lambda m: subscript(m[0]), text)
    return re.sub(r"(?:\(|(?<!\d))(\d*+[+\-])\)?$", lambda m: superscript(m[1]), text)


def _circa(prefix: str) -> Arguments:
    def shown(args: list[str], _: dict[str, str]) -> str:
        return prefix + "–".join(a for a in args[:2] if a)

    return shown


def _fraction(args: list[str], _: dict[str, str]) -> str:
    """Return the text of {{frac|1|2}}, {{frac|2}} (a half) and {{frac|3|1|2}} (three and a half)."""
    args = [a for a in args if a]
    if len(args) == 1:
        return f"1/{args[0]}"
    if len(args) == 3:
        return f"{args[0]} {args[1]}/{args[2]}"
    return "/".join(args) if args else ""


def _harvtxt(args: list[str], _: dict[str, str]) -> str:
    """Return 'Doe & Roe (2000)' for {{harvtxt|Doe|Roe|2000}}. Unlike similar templates it is part of the sentence."""
    return f"{' & '.join(args[:-1])} ({args[-1]})" if len(args) > 1 else HOLE


def _ill(args: list[str], _: dict[str, str]) -> str:
    """Return the title of {{ill|Title|de}}, or in its older order {{ill|de|Title|...}}."""
    codes = [a for a in args[:1] if a.islower() and len(a) <= 3]
    return args[1] if codes and len(args) > 1 else args[0] if args else ""


def _joined(separator: str) -> Arguments:
    def shown(args: list[str], _: dict[str, str]) -> str:
        return separator.join(a for a in args if a)

    return shown


def _nihongo(args: list[str], _: dict[str, str]) -> str:
    """Return 'English (kanji, romaji)' for {{nihongo|English|kanji|romaji}}."""
    rest = ", ".join(a for a in args[1:3] if a)
    if not args or not args[0]:
        return rest
    return f"{args[0]} ({rest})" if rest else args[0]


def _ship(prefix: str) -> Arguments:
    """Return a function that gives 'USS Alabama (BB-60)' for {{USS|Alabama|BB-60}}.

    A third argument of 2, 3 or 6 drops the part in parentheses.
    """

    def shown(args: list[str], _: dict[str, str]) -> str:
        args = args if prefix else [" ".join(args[:2]), *args[2:]]
        name = f"{prefix} {args[0]}".strip() if args else ""
        hidden = len(args) > 2 and args[2] in ("2", "3", "6")
        return f"{name} ({args[1]})" if len(args) > 1 and args[1] and not hidden else name

    return shown


def _nuclide(args: list[str], _: dict[str, str]) -> str:
    return f"{args[0]}-{args[1]}" if len(args) > 1 else HOLE


def _sic(args: list[str], _: dict[str, str]) -> str:
    return "".join(args[:2])


def _coordinates(args: list[str], named: dict[str, str]) -> str:
    return HOLE if "inline" in named.get("display", "inline") else ""


def _currency(sign: str) -> Arguments:
    def shown(args: list[str], _: dict[str, str]) -> str:
        return sign + unit_templates.group_digits(args[0]) if args and args[0] else HOLE

    return shown


def _music(args: list[str], _: dict[str, str]) -> str:
    return {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}.get(args[0] if args else "", HOLE)


_FORMATS: dict[str, Arguments] = {
    "as of": _as_of, "convert": unit_templates.convert, "cvt": unit_templates.convert, "val": unit_templates.value,
    "chem": _chem, "chem2": _chem2,
    "circa": _circa("c. "), "c.": _circa("c. "), "ca": _circa("c. "), "floruit": _circa("fl. "), "fl.": _circa("fl. "),
    "reign": _circa("r. "), "r.": _circa("r. "), "born": _circa("b. "), "died": _circa("d. "),
    "frac": _fraction, "sfrac": _fraction, "harvtxt": _harvtxt,
    "harvcoltxt": _harvtxt, "fraction": _fraction, "ill": _ill, "interlanguage link": _ill,
    "interlanguage link multi": _ill, "linktext": _joined(""), "not a typo": _joined(""), "gaps": _joined(""),
    "hlist": _joined(", "), "flatlist": _joined(", "), "plainlist": _joined(", "), "plain list": _joined(", "),
    "unbulleted list": _joined(", "), "ubl": _joined(", "), "ublist": _joined(", "), "vunblist": _joined(", "),
    "angbr": lambda a, _: f"⟨{a[0]}⟩" if a else "", "angle bracket": lambda a, _: f"⟨{a[0]}⟩" if a else "",
    "nihongo": _nihongo, "uss": _ship("USS"), "hms": _ship("HMS"), "ship": _ship(""),
    "sclass": lambda a, _: " ".join(a[:2]),
    "simplenuclide": _nuclide, "simplenuclide2": _nuclide, "nuclide": _nuclide, "nuclide2": _nuclide,
    "nts": lambda a, _: unit_templates.group_digits(a[0]) if a else "",
    "num": lambda a, _: unit_templates.group_digits(a[0]) if a else "",
    "sup": lambda a, _: superscript(a[0]) if a else "", "sub": lambda a, _: subscript(a[0]) if a else "",
    "pow": lambda a, _: a[0] + superscript(a[1]) if len(a) > 1 else HOLE,
    "e": lambda a, _: "×10" + superscript(a[0]) if a else HOLE, "sic": _sic, "music": _music, "coord": _coordinates,
    "us$": _currency("US$"), "usd": _currency("US$"), "a$": _currency("A$"), "aud": _currency("A$"),
    "cad": _currency("C$"),
    "gbp": _currency("£"), "£": _currency("£"), "€": _currency("€"), "eur": _currency("€"), "inr": _currency("₹"),
    "¥": _currency("¥"), "jpy": _currency("¥"), "dts": _date, "start date": _date, "end date": _date,
    "film date": _date,
    "birth date": _date, "death date": _date, "birth date and age": _date, "bda": _date, "dob": _date,
    "birth year": _date,
    "death date and age": _date, "dda": _date, "start date and age": _date, "birth-date": _date, "death-date": _date,
    "birth-date and age": _date, "birth year and age": lambda a, n: _date(a[:1], n),
    "marriage": lambda a, _: a[0] if a else "",
}  # fmt: skip
