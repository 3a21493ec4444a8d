"""Dates and numbers in English prose, found by regular expressions. Text goes in, (start, end) offsets come out.

Dates: '14 March 1823', 'March 14, 1823', 'March 1823', '14 March', '1823', '1820s', '5th century BC', '300 BC' and
ranges of these. Numbers: the figure with what is attached to it or cannot be separated from it, which is sign,
currency, per cent sign and scale ('$3.5 million', '12.5%', '41,200'). The unit or the counted noun stays outside, since
it tells a reader of the masked text which number is asked for.
"""

import re

MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan\\.?|Feb\\.?|Mar\\.?|Apr\\.?|Jun\\.?|Jul\\.?|Aug\\.?|Sept?\\.?|Oct\\.?|Nov\\.?|Dec\\.?"
)
_ERA = r"(?:\s?(?:BCE|BC|CE|AD|B\.C\.E?\.?|A\.D\.))"
_DASH = r"\s?(?:–|—|-|to|and|or|until)\s?"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_FULL = (
    rf"(?:{_DAY}(?:\s?[–-]\s?{_DAY})?\s(?:of\s)?(?:{MONTHS})(?:,?\s{_YEAR}\b(?!,\d))?"
    rf"|(?:{MONTHS})\s{_DAY}(?:\s?[–-]\s?{_DAY})?(?:,\s(?:{_YEAR})\b(?!,\d))?(?!\d)"
    rf"|(?:{MONTHS})(?:\sof)?,?\s{_YEAR}\b(?!,\d))"
)
_ORDINAL = (
    r"(?:\d{1,2}(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    r"|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|twenty-first)"
)
_CENTURY = rf"(?:mid-)?{_ORDINAL}(?:{_DASH}{_ORDINAL})?[\s-](?:century|centuries|millennium)\b{_ERA}?"
_WITH_ERA = rf"(?:AD\s\d{{1,4}}(?:[–-]\d{{1,4}})?|\d{{1,3}}(?:,?\d{{3}})?(?:\s?[–-]\s?\d{{1,4}})?{_ERA}(?![\w]))"
_DECADE = r"(?:mid-)?(?:1\d{2}0|20\d0)s\b"
_YEARS = rf"{_YEAR}(?:[–/-](?:{_YEAR}|\d{{2}}))?"
# Words after a bare four-digit figure that is no year.
_COUNTED_WORDS = r"""% percent per\scent million billion thousand hundred km m\b cm mm kg g\b mi\b ft feet miles metres
 meters people persons inhabitants men\b women\b species pages copies tons tonnes acres hectares years days hours square
 cubic kilo deaths soldiers troops students members words degrees votes points pounds dollars euros cal\b ° K\b MHz GHz
 kHz Hz residents citizens seats employees books volumes steps children households families ships aircraft"""
_COUNTED = rf"\s?(?:{'|'.join(_COUNTED_WORDS.split())})"
DATE = re.compile(
    rf"(?<![\w.,$£€/–-])(?:{_FULL}(?:\s?–\s?{_FULL})?{_ERA}?|{_CENTURY}|{_WITH_ERA}|{_DECADE}"
    rf"|{_YEARS}(?![\w%°]|[.,]\d|-\w|{_COUNTED}))(?!\w)"
)
_FIGURE = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_SCALE = r"(?:\s(?:hundred\s)?(?:thousand|million|billion|trillion)\b)"
NUMBER = re.compile(
    rf"(?<![\w.,/:°′″–−-])(?:(?:US|A|C|NZ|HK)?[$£€¥₹]\s?)?[−-]?{_FIGURE}(?:\s?(?:–|to)\s?[−-]?{_FIGURE})?"
    rf"(?:\s?%|°(?:[CF]\b)?)?{_SCALE}?(?![\w/:′″–]|[.,]\d|-\w)"
)
# A figure without scale, currency or thousands is a quantity only if something counted or measured follows it.
_UNITS = r"""percent per\scent k?m[²³]?\b cm\b mm\b nm\b [kmg]g\b g\b km/h mph ft\b mi\b sq\s feet foot inch mile metre
 meter kilo square cubic acre hectare litre liter ton gram pound ounce dollar euro cent year month week day
 hour minute second degree K\b ° Hz kHz MHz GHz watt volt joule W\b kW MW GW V\b eV keV MeV bit byte KB MB GB people
 persons men\b
 women\b"""
_NO_UNIT = "and or to in of as is was the at by on for with from but his its this has does".split()
_UNIT_AFTER = re.compile(
    rf"[\s-]?(?:{'|'.join(_UNITS.split())}|(?!(?:{'|'.join(_NO_UNIT)})\b)(?:[a-z]+ )?[a-z]{{3,}}s\b)"
)
# 'Table 3', 'Apollo 11', 'No. 5': the figure is a label.
_LABEL_BEFORE = re.compile(
    r"(?:\b[A-Z][\w'’.-]*|\b(?:no|nos|vol|pp?|page|pages|chapter|section|Section|verse|line|class|type|number|grade))\.?\s$"
)
_CONVERTED = re.compile(r"[\s-]?[^\s()]{1,14}(?:\s[^\s()]{1,14}){0,2}\s\((?:about |~)?[\d.,]+[\s\u00a0-]?[^()]{1,30}\)")
_CONVERSION = re.compile(r"\d[\d.,]*[\s-]?[^\s()]{1,14}(?:\s[^\s()]{1,14}){0,2}\s\((?:about |~)?$")


def dates(text: str) -> list[tuple[int, int]]:
    """Return the offsets of dates, years, decades and centuries. Figures that count something are not dates."""
    return [m.span() for m in DATE.finditer(text)]


def numbers(text: str) -> list[tuple[int, int]]:
    """Return the offsets of quantities. Dates may be among them; the caller prefers dates.

    Left out: labels ('Table 3', 'Apollo 11'), plain figures with nothing counted after them, and both sides of a
    printed conversion ('10 km (6 mi)'), since each side can be computed from the other.
    """
    found = []
    for match in NUMBER.finditer(text):
        start, end = match.span()
        shown = match[0]
        plain = shown.isdigit()
        if (
            re.fullmatch(r"\d+(?:\.\d+)?", shown)
            and _LABEL_BEFORE.search(text[max(0, start - 25) : start])
            and not _sentence_start(text, start)
        ):
            continue
        if plain and not _UNIT_AFTER.match(text, end):
            continue
        if _CONVERTED.match(text, end) or _CONVERSION.search(text[max(0, start - 60) : start]):
            continue
        found.append((start, end))
    return found


def _sentence_start(text: str, start: int) -> bool:
    """Return whether the word before `start` opens a sentence ('Some 300 men'), so that its capital means nothing."""
    while start and text[start - 1].isspace():
        start -= 1
    word = text.rfind(" ", 0, start)
    return word < 0 or text[word - 1] in '.!?"”'
