"""The kinds of rules for settings. A rule says in words which values are allowed, and checks a value.

Enters: bounds, choices, shapes of tuples. Leaves: `Rule`s. Left out: which setting has which rule (setting_ranges.py).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from masksearch_jax.runtime.types import Setting


@dataclasses.dataclass(frozen=True)
class Rule:
    """The allowed values of a setting.

    says: what is allowed, in words that follow "it has to be". admits: returns True for an allowed value. secret: never
    show a refused value. choices: all allowed values, if they can be listed.
    """

    says: str
    admits: Callable[[Setting], bool]
    secret: bool = False
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: Setting) -> None:
        """Raise ValueError that names the setting, its value and what is allowed, unless the value is allowed."""
        try:
            admitted = self.admits(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}={value!r}: {error}") from error
        if not admitted and self.choices:
            raise ValueError(f"{name}={value!r} is none of {self.choices}")
        if not admitted:
            shown = "its value is not shown" if self.secret else repr(value)[:200]
            raise ValueError(f"{name}={shown}: it has to be {self.says}")


def whole(least: int, most: int | None = None, says: str = "") -> Rule:
    """Allow a whole number from `least` to `most`; None: no upper limit."""
    words = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    return Rule(says or words, lambda value: _is_whole(value) and value >= least and (most is None or value <= most))


def number(least: float = 0.0, most: float = math.inf, above: bool = False) -> Rule:
    """Allow a finite number from `least` to `most`; above: `least` itself is not allowed."""
    words = f"a number above {least:g}" if above else f"a number of at least {least:g}"
    if most < math.inf:
        words += f" and at most {most:g}"

    def admits(value: Setting) -> bool:
        return is_number(value) and least <= value <= most and not (above and value == least)

    return Rule(words, admits)


def one_of(*choices: str) -> Rule:
    return Rule("one of them", lambda value: isinstance(value, str) and value in choices, choices=choices)


def flag() -> Rule:
    return Rule("True or False", lambda value: isinstance(value, bool))


def text() -> Rule:
    return Rule("a string", lambda value: isinstance(value, str))


def buckets(least: int = 1, empty: bool = False) -> Rule:
    """Allow a tuple of ascending bucket sizes of at least `least`; empty: () is allowed as well."""
    words = f"a tuple of ascending whole numbers of at least {least}" + (", or ()" if empty else ", one or more")

    def admits(value: Setting) -> bool:
        sizes: list[Setting] = list(value) if is_sequence(value) else [None]
        return all(map(_is_whole, sizes)) and sizes == sorted(set(sizes)) and min(sizes, default=least) >= least and (
            empty or bool(sizes)
        )  # fmt: skip

    return Rule(words, admits)


def some_of(*choices: Setting, empty: bool = False) -> Rule:
    """Allow a tuple of different choices; empty: () is allowed as well."""
    words = f"a tuple of some of {', '.join(repr(choice) for choice in choices)}, each once"

    def admits(value: Setting) -> bool:
        return (
            is_sequence(value)
            and all(not isinstance(item, bool) and item in choices for item in value)
            and len(set(value)) == len(value)
            and (empty or bool(value))
        )

    return Rule(words, admits)


def texts() -> Rule:
    return Rule("a tuple of strings", lambda value: is_sequence(value) and all(isinstance(item, str) for item in value))


def any_like(value: Setting) -> Rule:
    """Return a rule for a setting without one, by the type of `value`.

    Numbers must be finite and not negative; tuples must hold strings.
    """
    if isinstance(value, bool):
        return flag()
    if isinstance(value, int):
        return whole(0)
    if isinstance(value, float):
        return number()
    return texts() if is_sequence(value) else text()


def is_sequence(value: Setting) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_number(value: Setting) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Setting) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
