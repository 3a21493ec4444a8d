"""Numbers, times and dates in an answer, each written in one way, so that equal values give equal tokens.

SQuAD's normalisation deletes punctuation: 3.5 becomes 35, -5 becomes 5, 20:15 becomes 2015. Here the marks that are
part of a number's value stay, all spellings of a number become one, and two numbers never merge:

    3.5, 3.50 and ٣٫٥               -> 3.5         (a decimal; 5.0 is 5, .5 is 0.5; 35 is another number)
    1,234 and 1234 and 1'234        -> 1234        (thousands; also 1,234.5, 12,34,567 and thin spaces; 1,2 is 1 and 2)
    -5, −5, –5, -$5 and $-5         -> -5          (a sign: a dash before a digit, and after neither word nor number)
    5, +5, $5, 5%                   -> 5           (marks that SQuAD deletes as well; £ and € stay: £5)
    20:15 and 08:05, 8:05           -> 20:15, 8:05 (a time or a ratio; 2015 is another number)
    1990–1995, 1990-95, 1990/91     -> two numbers each (a range, a score, a fraction: 1/2 and ½ are 1 and 2)
    2015-03-04                      -> 4 march 2015 (the tokens of '4 March 2015' and 'March 4, 2015')
    10⁶, 10^6, 10⁻⁶                 -> 10^6, 10^-6 (powers are not multiplied out; × and ± are tokens of their own)
    1.2.3 and 4.3.2015              -> as they are (versions, sections, dates with points)
    1990., (1990), 1990,            -> 1990        (the end of a sentence is no decimal point)
    covid-19, 5-metre, 3rd, 1990s   -> covid19, 5metre, 3rd, 1990s (words with digits stay as SQuAD has them)
    3.5km and −3.5-metre            -> 3.5km, -3.5metre

Left out: arithmetic ('1.5 million' is two tokens and does not equal '1,500,000', '5 km' does not equal '5km'), numbers
in words, dates in other notations, spaces between thousands that are no thin spaces.
"""

import re
import unicodedata
from collections.abc import Callable

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_POWER = re.compile(r"(?<=\d)[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞↉])")
_THIN_SPACE = re.compile(r"(?<=\d)[\u2007\u2009\u202f](?=\d{3}(?!\d))")
_MINUS = re.compile(r"[−‐‑](?=[$£€¥]?\.?\d)|(?<=\d)[−‐‑]")
_OPERATOR = re.compile(r"(?<=\d)\s*([×±])|([×±])(?=\s*[-–]?\.?\d)")
_ARABIC_MARKS = re.compile(r"(?<=\d)[٫٬](?=\d)")

# What a sign may follow: the start, whitespace, an opening bracket or quote, a currency, an operator, a list separator.
# An en dash after a number and a space is a range.
_BEFORE = r"""(?<![^\s(\[{"'“‘«$£€¥=<>~≈±×/:;,|])"""
_SIGN = rf"{_BEFORE}(?:-|(?<!\d\s)–)"
_NUMBER = re.compile(
    rf"""
    (?<!\d)(?P<year>\d{{4}})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])(?!\d|-\d)
    | (?P<sign>{_SIGN}(?=[$£€¥]?\.?\d))?
      (?P<currency>(?<=[-–])[$£€¥])?
      (?:
        (?P<dotted>\d+(?:\.\d+){{2,}})
        | (?P<clock>\d+(?::\d+)+(?:\.\d+)?)
        | (?P<power>\d+\^[-+]?\d+)
        | (?P<whole>\d{{1,3}}(?:[,'’]\d{{3}})+(?!\d) | \d{{1,2}}(?:,\d{{2}})+,\d{{3}}(?!\d) | \d+)(?P<part>\.\d+)?
        | (?:{_BEFORE}|(?<=[-–]))(?P<fraction>\.\d+)
      )
    """,
    re.VERBOSE,
)


def rewrite(text: str, words: Callable[[str], str], nfkc: Callable[[str], str]) -> str:
    """Return text in lower case and NFKC, with each number written in one way and kept apart from other numbers.

    words: cleans the text between the numbers, as it would clean text without any. Letters that touch a number still
    touch it afterwards. nfkc: brings text into that normal form.
    """
    text = _fold(text, nfkc)
    done: list[str] = []
    end = 0
    for match in _NUMBER.finditer(text):
        between = words(text[end : match.start()])
        # Two numbers with only punctuation between them are two tokens.
        done += [" " if end and not between else between, _written(match)]
        end = match.end()
    return "".join([*done, words(text[end:])])


def _fold(text: str, nfkc: Callable[[str], str]) -> str:
    """Return text in lower case and NFKC, with one minus sign, ASCII digits, and '^' before superscript powers.

    Without the '^', NFKC would join a power to its base."""
    text = _POWER.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = _THIN_SPACE.sub("", _VULGAR.sub(" ", text))
    text = nfkc(text).lower().replace("\u2044", "/")
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
        text = _ARABIC_MARKS.sub(lambda match: "." if match[0] == "٫" else ",", text)
        text = _MINUS.sub("-", text)
        text = _OPERATOR.sub(r" \1\2 ", text)
    return text


def _written(match: re.Match[str]) -> str:
    """Return the one spelling of the number in a match of _NUMBER."""
    if match["year"]:
        return f" {int(match['day'])} {_MONTHS[int(match['month']) - 1]} {match['year']} "
    if match["dotted"]:
        number = match["dotted"]
    elif match["clock"]:
        first, rest = match["clock"].split(":", 1)
        number = f"{first.lstrip('0') or '0'}:{rest}"
    elif match["power"]:
        number = match["power"].replace("+", "")
    else:
        part = (match["part"] or match["fraction"] or "").rstrip("0").rstrip(".")
        number = re.sub(r"[,'’]", "", match["whole"] or "0") + part
    currency = match["currency"] if match["currency"] not in (None, "$") else ""
    return currency + ("-" if match["sign"] and number.strip("0.:") else "") + number
