"""Numbers as the templates convert, val and formatnum print them.

'2381741|km2|sqmi' becomes '2,381,741 square kilometres'. Only the first of the quantities is printed: '(919,595 square
miles)' beside a masked number would leak it.
"""

import re

_NAMES = dict(
    entry.strip().split("=")
    for entry in """
    km=kilometres, m=metres, cm=centimetres, mm=millimetres, um=micrometres, nm=nanometres, mi=miles, ft=feet,
    foot=feet, in=inches, yd=yards, nmi=nautical miles, fathom=fathoms, km2=square kilometres,
    sqkm=square kilometres, m2=square metres, sqm=square metres, cm2=square centimetres, mi2=square miles,
    sqmi=square miles, ft2=square feet, sqft=square feet, sqyd=square yards, sqin=square inches, ha=hectares,
    acre=acres, m3=cubic metres, km3=cubic kilometres, cm3=cubic centimetres, cuft=cubic feet, cumi=cubic miles,
    L=litres, l=litres, ml=millilitres, mL=millilitres, USgal=US gallons, impgal=imperial gallons, gal=gallons,
    oilbbl=barrels, kg=kilograms, g=grams, mg=milligrams, t=tonnes, tonne=tonnes, lb=pounds, oz=ounces,
    ozt=troy ounces, st=stone, LT=long tons, ST=short tons, ton=tons, °C=°C, C=°C, °F=°F, F=°F, K=K, °K=K,
    km/h=kilometres per hour, kph=kilometres per hour, mph=miles per hour, m/s=metres per second,
    ft/s=feet per second, kn=knots, knot=knots, hp=horsepower, kW=kilowatts, MW=megawatts, W=watts,
    GW=gigawatts, kWh=kilowatt hours, MJ=megajoules, kJ=kilojoules, kcal=kilocalories, J=joules, Pa=pascals,
    kPa=kilopascals, MPa=megapascals, GPa=gigapascals, psi=pounds per square inch, atm=atmospheres, bar=bars,
    ly=light-years, pc=parsecs, AU=astronomical units, Nm=newton metres, PD/sqkm=people per square kilometre,
    PD/sqmi=people per square mile, /km2=per square kilometre, /sqkm=per square kilometre,
    /sqmi=per square mile, kg/m3=kilograms per cubic metre, g/cm3=grams per cubic centimetre,
    m3/s=cubic metres per second, cuft/s=cubic feet per second, kg/ha=kilograms per hectare, u=u, kt=kilotonnes,
    C-change=°C, F-change=°F
    """.split(",")
)
_SYMBOLS = {
    "km2": "km²", "sqkm": "km²", "m2": "m²", "cm2": "cm²", "mi2": "sq mi", "sqmi": "sq mi", "sqft": "sq ft",
    "ft2": "sq ft", "m3": "m³", "km3": "km³", "cm3": "cm³", "cuft": "cu ft", "acre": "acres", "C": "°C", "F": "°F",
}  # fmt: skip
_SCALES = {"e3": "thousand", "e6": "million", "e9": "billion", "e12": "trillion"}
_BETWEEN = {
    "-": "–",
    "–": "–",
    "to": " to ",
    "to-": " to ",
    "and": " and ",
    "or": " or ",
    "x": " by ",
    "×": " by ",
    "by": " by ",
}
_BETWEEN |= {
    "*": " by ",
    "xx": " by ",
    "+/-": " ± ",
    "±": " ± ",
    "to about": " to about ",
    "and(-)": " and ",
    "to(-)": " to ",
}
_NUMBER = re.compile(r"[+\-−]?(?:[\d,]*+\.\d++|[\d,]++(?<=\d)|\d++\.)(?:(?:[+\-]\d*+)?/\d++)?(?:e[+\-]?\d++)?")
_SUPERSCRIPT = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")


def group_digits(number: str) -> str:
    """Return the number with commas between thousands ('2381741.5' -> '2,381,741.5'); other text is unchanged."""
    # No text prints longer numbers, and Python reads at most 4,300 digits.
    match = re.fullmatch(r"([+\-−]?)(\d{4,1000})(\.\d+)?", number.strip())
    return f"{match[1]}{int(match[2]):,}{match[3] or ''}" if match else number.strip()


def convert(args: list[str], named: dict[str, str]) -> str:
    """Return the first quantity of {{convert|...}}; ranges, 'adj=on' and 'abbr=on' are printed as the template does."""
    if not args or not _NUMBER.fullmatch(args[0]):
        return args[0] if args else ""
    text, unit, rest = _numbers(args)
    short = named.get("abbr") in ("on", "in", "y", "yes", "unit") or bool(named.get("sp") == "symbol")
    adjective = named.get("adj") in ("on", "mid", "ri1", "j", "y", "yes", "pre") and not short
    words = _unit_words(unit, short, adjective or text in ("1", "−1", "1/2"))
    if rest and len(rest) >= 2 and _NUMBER.fullmatch(rest[0]) and rest[1] in ("in", "oz", "lb", "ft", "yd", "cwt"):
        return f"{text} {words} {group_digits(rest[0])} {_unit_words(rest[1], short, rest[0] == '1')}"
    if adjective and not words.startswith(("°", "million", "billion", "thousand")):
        return f"{text}-{words.replace(' ', '-')}"
    return f"{text} {words}".strip()


def _numbers(args: list[str]) -> tuple[str, str, list[str]]:
    """Split convert's arguments into the printed number or range, its unit code and what follows."""
    text = _number(args[0])
    position = 1
    while position + 1 < len(args) and args[position] in _BETWEEN and _NUMBER.fullmatch(args[position + 1]):
        text += _BETWEEN[args[position]] + _number(args[position + 1])
        position += 2
    return text, args[position] if position < len(args) else "", args[position + 1 :]


def _number(text: str) -> str:
    """Print one number argument: '1+1/2' as '1 1/2', '5e6' as a power of ten."""
    base, e, exponent = text.replace(",", "").partition("e")
    mixed = re.fullmatch(r"(\d+)\+(\d+/\d+)", base)
    shown = f"{mixed[1]} {mixed[2]}" if mixed else group_digits(base.lstrip("+"))
    shown = shown.replace("-", "−") if shown.startswith("-") else shown
    return f"{shown}×10{exponent.translate(_SUPERSCRIPT)}" if e else shown


def _unit_words(unit: str, short: bool, singular: bool) -> str:
    """Return the name of a unit code, with its 'e6' prefix as 'million'."""
    scale = ""
    if match := re.match(r"e(?:3|6|9|12)(?=\D)", unit):
        scale = _SCALES[match[0]] + " "
        unit = unit[match.end() :]
    if short:
        return scale + _SYMBOLS.get(unit, unit)
    name = _NAMES.get(unit) or _rate(unit)
    if singular and not scale and unit in _NAMES:
        head, _, tail = name.partition(" per ")
        irregular = {"feet": "foot", "inches": "inch", "people": "person"}
        words = head.split(" ")
        last = words[-1]
        words[-1] = irregular.get(last, last[:-1] if last.endswith("s") and last not in ("hours",) else last)
        name = " ".join(words).replace("square feet", "square foot") + (f" per {tail}" if tail else "")
    return scale + name


def _rate(unit: str) -> str:
    """Return 'barrels per day' for 'oilbbl/d', and an unknown code unchanged."""
    amount, slash, time = unit.rpartition("/")
    periods = {"d": "day", "h": "hour", "min": "minute", "s": "second", "a": "year", "year": "year", "km": "kilometre"}
    return f"{_NAMES[amount]} per {periods[time]}" if slash and amount in _NAMES and time in periods else unit


def value(args: list[str], named: dict[str, str]) -> str:
    """Return '6.2415±0.0001×10¹⁸ C' for {{val|6.2415|0.0001|e=18|u=C}}."""
    if not args or not args[0]:
        return ""
    text = group_digits(args[0]) if len(args) == 1 else args[0]
    if len(args) > 1 and args[1]:
        text += "±" + args[1]
    if "e" in named:
        text += "×10" + named["e"].translate(_SUPERSCRIPT)
    unit = named.get("u") or named.get("ul") or ""
    return f"{text} {unit}".strip()
