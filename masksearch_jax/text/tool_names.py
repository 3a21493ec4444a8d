"""Names of the tools of an episode, from the section `tools` of a config. workflows/tools.py makes the tools."""

from masksearch_jax.runtime.types import ConfigSection
from masksearch_jax.text import tags

VISIT = "visit"


def tool_names(tools: ConfigSection) -> tuple[str, ...]:
    """Return the names of the tools: search, visit if it is on, then those of `tools.more` in their order.

    Raises ValueError that names an entry of `tools.more` which is not NAME=WHERE, or a name that cannot be a tag.
    """
    names = [*tags.ONE_TOOL, *([VISIT] if tools.visit else []), *further_tools(tools)]
    try:
        return tags.check_tools(names)
    except ValueError as error:
        raise ValueError(f"tools.more={tuple(tools.more)}: {error}") from None


def further_tools(tools: ConfigSection) -> dict[str, str]:
    """Return {name: where} of `tools.more`; raise ValueError that names an entry of another form."""
    found: dict[str, str] = {}
    for entry in tools.more:
        name, equals, where = entry.partition("=")
        if not equals or not where or name in found:
            raise ValueError(
                f"tools.more has {entry!r}: entries are NAME=WHERE with each name once, such as calc=calc.py:Tool"
            )
        found[name] = where
    return found
