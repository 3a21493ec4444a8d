"""Chat templates as Jinja: parsed and rendered in a sandbox, in the environment that published templates expect.

Enters: the text of a template, and values. Leaves: the rendered text. The environment is that of transformers
(utils/chat_template_utils.py): blocks trimmed, `break` and `continue`, the block `generation`, `raise_exception`,
`strftime_now`, and a `tojson` that escapes nothing. Two things differ, because the prompts of a data set must not
change from one run to the next: `strftime_now` always returns the same day, and the random `lipsum` and `random` are
missing.

A template comes with a download, so it is not trusted. The sandbox hides the interpreter. This module bounds loops,
calls, products and powers, and the length of the text. Left out: memory that filters may take
(`'x'|center(10 ** 8)`).
"""

import datetime
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jinja2
from jinja2 import ext, meta, nodes, runtime, sandbox, utils
from jinja2.parser import Parser

# A value of a template: whatever the caller hands over or the template makes of it.
Value: TypeAlias = Any
# Some templates (Llama 3.1, 3.2) write today's date if they can ask for it, and this one otherwise.
_TODAY = datetime.datetime(2024, 7, 26)
_MOST_STEPS = 20_000  # loop iterations and calls; an honest template takes a few hundred
_MOST_CHARACTERS = 1_000_000
_MOST_BITS = 4096  # of an integer
_FILE = "<template>"  # the file name that Jinja gives to a template that was a string


class SandboxedTemplate:
    """A parsed template. Not thread-safe: the bounds belong to one rendering at a time."""

    def __init__(self, source: str, where: str):
        """Parse a template. where: the file that holds it, for error messages.

        Raises ValueError that names the file and the faulty line."""
        self.where, self._source = where, source
        self._environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
        )
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"{where}, line {error.lineno}: the chat template is no Jinja: {error.message}") from error
        except Exception as error:  # nested more deeply than Python can compile
            raise ValueError(f"{where}: the chat template is no Jinja: {error}") from error

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text that the template writes with `values`.

        Raises ValueError that names the file, the line and what went wrong: a message of the template's own
        `raise_exception`, an access that the sandbox refuses, or a bound that was reached.
        """
        self._environment.steps = _MOST_STEPS
        written, size = [], 0
        try:
            for part in self._template.generate(**values):
                written.append(part)
                size += len(part)
                if size > _MOST_CHARACTERS:
                    raise sandbox.SecurityError(f"it writes more than {_MOST_CHARACTERS} characters")
        except jinja2.TemplateError as error:
            raise ValueError(f"{self.where}{_line_of(error)}: the chat template fails: {error}") from error
        except Exception as error:  # from an operator or a filter: a template may do anything
            kind = type(error).__name__
            raise ValueError(f"{self.where}{_line_of(error)}: the chat template fails ({kind}: {error})") from error
        return "".join(written)

    def variables(self) -> frozenset[str]:
        """Return the names that the template reads and does not set on every path."""
        return frozenset(meta.find_undeclared_variables(self._environment.parse(self._source)))


class _Generation(ext.Extension):
    """The block `{% generation %}`, with which templates mark what the model wrote; its text is left as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """The global `dict`, without the attributes of the class."""

    def __call__(self, *args: Value, **kwargs: Value) -> dict[Value, Value]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Value) -> dict[Value, Value]:
        return dict.fromkeys(*args)


class _Namespace(utils.Namespace):
    """The global `namespace`, which refuses names that begin with an underscore."""

    def __init__(*args: Value, **kwargs: Value):
        self, *rest = args
        found = dict(*rest, **kwargs)
        for name in found:
            _Namespace._check(name)
        utils.Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: object) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if str(name).startswith("_"):
            raise sandbox.SecurityError(f"namespace has a name {name!r}")


class _Environment(sandbox.ImmutableSandboxedEnvironment):
    """The Jinja environment, which counts loop iterations and calls down from `steps`."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, **options: Value):
        super().__init__(**options)
        self.steps = _MOST_STEPS
        del self.globals["lipsum"], self.filters["random"]
        self.filters["tojson"] = _to_json
        self.globals |= {
            "raise_exception": _raise, "strftime_now": _TODAY.strftime, "dict": _Dict(), "namespace": _Namespace,
        }  # fmt: skip

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template and make every loop iterate over `bounded`."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Call(
                nodes.EnvironmentAttribute("bounded"), [loop.iter], [], None, None, lineno=loop.lineno
            ).set_environment(self)
        return tree

    def bounded(self, items: Iterable[Value]) -> Iterator[Value]:
        for item in items:
            self._step()
            yield item

    def call(__self, __context: Value, __obj: Value, *args: Value, **kwargs: Value) -> Value:  # noqa: N805, as in Jinja
        __self._step()
        if isinstance(__obj, runtime.LoopContext):  # a recursive loop goes one level down
            args = (__self.bounded(args[0]), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Value, operator: str, left: Value, right: Value) -> Value:
        sizes = [len(one) if isinstance(one, str | list | tuple) else 0 for one in (left, right)]
        counts = [one for one in (left, right) if isinstance(one, int)]
        bits = [abs(one).bit_length() for one in counts]
        if operator == "**":
            large = len(counts) == 2 and bits[0] * abs(right) > _MOST_BITS
        else:
            large = sum(bits) > _MOST_BITS or (bool(counts) and max(sizes) * abs(counts[0]) > _MOST_CHARACTERS)
        if large:
            raise sandbox.SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise sandbox.SecurityError(f"its loops and calls take more than {_MOST_STEPS} steps")


def _raise(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _line_of(error: BaseException) -> str:
    """Return ', line 3' if the traceback goes through the template."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE]
    return f", line {lines[-1]}" if lines else ""
