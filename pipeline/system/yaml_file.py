"""YAML that people write, read as DVC reads it (ruamel, YAML 1.2) and within bounds.

A small file of YAML can stand for gigabytes (aliases of aliases), for an endless value (an alias of
itself) and for what is no setting (dates, tags); each of these is a line that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, Node

from pipeline.errors import Problems, UserError
from pipeline.numbers import counted
from pipeline.system.files import read_bounded
from pipeline.system.text import printable, quoted, shortened

MOST_BYTES = 2**16
MOST_VALUES = 10_000  # with what aliases stand for
MOST_LEVELS = 32
MOST_BITS = 64  # of a whole number
MOST_LISTED = 20  # problems

# What ruamel's constructors raise of a number of 5,000 digits, the 13th month, `!!int x`.
CARELESS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's values: mappings by text, lists, text, numbers, true, false and null.

    Raises:
        UserError: the file is missing, is no regular file, is not YAML, is too large or too deep,
            or holds something else; a line for each value that is something else.
    """
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: No such file or directory") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold sections such as `train:`, not {quoted(values)}")
    if problems := list(_not_plain(values, "")):
        raise Problems(listed(str(path), problems))
    return values


def listed(where: str, problems: list[str]) -> str:
    """How many problems there are, and the first of them, a line each."""
    shown = problems[:MOST_LISTED]
    if len(problems) > MOST_LISTED:
        shown.append(f"and {len(problems) - MOST_LISTED} more")
    where = printable(where, keep="")
    return "\n".join([f"{where} has {counted(len(problems), 'problem')}", *shown])


def _parse(text: str, where: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    try:
        # The scanner looks ahead from each bracket to the end of the line: a minute for a thousand.
        if any(_brackets(line) > MOST_LEVELS for line in text.splitlines()):
            raise RecursionError
        node = yaml.compose(text)
        if node is None:
            return None
        if _measure(node) > MOST_VALUES:
            raise UserError(f"{where}: holds more than {MOST_VALUES:,} values")
        return yaml.constructor.construct_document(node)
    except UserError:  # a ValueError
        raise
    except RecursionError:
        reason = f"nested more than {MOST_LEVELS} levels deep"
    except (YAMLError, *CARELESS) as error:
        reason = f"not valid YAML: {_one_line(error)}"
    raise UserError(f"{where}: {reason}")


def _brackets(line: str) -> int:
    """How many brackets are open at once, at most."""
    return max(accumulate((c in "[{") - (c in "]}") for c in line), default=0)


def _measure(node: Node, level: int = 0, count: int = 0) -> int:
    """`count` and the values below the node, each as often as aliases repeat it, up to too many.

    Raises:
        RecursionError: they are too deep, as an alias of itself is.
    """
    if level > MOST_LEVELS:
        raise RecursionError
    count += 1
    if not isinstance(node, CollectionNode):
        return count
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            if count > MOST_VALUES:
                return count
            count = _measure(part, level + 1, count)
    return count


def _not_plain(value: Any, key: str) -> Iterator[str]:
    """A line for each value that JSON has no word for."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(name, str):
                yield from _not_plain(inner, f"{key}.{name}" if key else name)
            else:
                yield f"{_shown(key)}: the key {quoted(name)} is not text; put it in quotes"
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _not_plain(inner, f"{key}[{index}]")
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" or character == "\0" for character in value):
            yield f"{_shown(key)}: {quoted(value)} holds what is no character"
    elif isinstance(value, int) and value.bit_length() > MOST_BITS:
        yield f"{_shown(key)}: a number of {value.bit_length():,} bits; {MOST_BITS} are the most"
    elif value is not None and not isinstance(value, int | float):
        yield f"{_shown(key)}: {quoted(value)} is a {type(value).__name__}; put text in quotes"


def _shown(key: str) -> str:
    return printable(shortened(key), keep="") or "the file"


def _one_line(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = ", ".join(filter(None, (error.context, error.problem)))
        text = f"line {mark.line + 1}, column {mark.column + 1}: {said}"
    else:
        text = str(error)
    return shortened(printable(" ".join(text.split()), keep=""), 300)
