"""Collect what is wrong with the settings of a run, so that one error names it all."""

from collections.abc import Callable
from typing import ParamSpec

Given = ParamSpec("Given")


class SeveralProblems(ValueError):
    """What several checks found. found: their messages."""

    def __init__(self, found: list[str]):
        super().__init__(f"{len(found)} things are wrong:\n" + "\n".join(f"  - {message}" for message in found))
        self.found = found


class Problems:
    """The errors of the checks that ran so far."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def check(self, call: Callable[Given, object], *args: Given.args, **kwargs: Given.kwargs) -> bool:
        """Call a check, and keep the ValueError or OSError that it raises. Returns True if it raised none.

        Any other error after a first problem is one of its consequences, and is not kept.
        """
        try:
            call(*args, **kwargs)
        except (ValueError, OSError) as error:
            self._errors.append(error)
        except Exception:
            if not self._errors:
                raise
        else:
            return True
        return False

    def raise_found(self) -> None:
        """Raise the one error that was found as it is, or `SeveralProblems` with the messages of all."""
        messages: dict[str, None] = {}  # in order, each once
        for error in self._errors:
            messages |= dict.fromkeys(error.found if isinstance(error, SeveralProblems) else [str(error)])
        if len(messages) == 1:
            raise self._errors[0]
        if messages:
            raise SeveralProblems(list(messages))
