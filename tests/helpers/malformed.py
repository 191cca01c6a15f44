"""What a user's file, setting or server may hold that it should not: generators, all seeded.

Every generator takes the name of the case as its seed, so a case is the same each time.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any


class Raw(str):
    """Stands in JSON as it is, without quotes."""


DIGITS = Raw("9" * 5000)
DEEP = Raw("[" * 20_000 + "]" * 20_000)
NESTED = Raw('{"a":' * 500 + "1" + "}" * 500)

# What may stand where a setting, a name or a number should.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus-one": -1,
    "one-and-a-half": 1.5,
    "million-million": 10**12,
    "int64": 2**63,
    "below-int64": -(2**63) - 1,
    "1e308": 1e308,
    "minus-1e308": -1e308,
    "denormal": Raw("5e-324"),
    "1e999": Raw("1e999"),
    "nan": Raw("NaN"),
    "infinity": Raw("Infinity"),
    "minus-infinity": Raw("-Infinity"),
    "5000-digits": DIGITS,
    "20000-deep": DEEP,
    "500-deep": NESTED,
    "empty-text": "",
    "blank": " ",
    "number-as-text": "1",
    "nan-as-text": "NaN",
    "long-text": "long " * 20_000,
    "long-path": "p/" * 2500,
    "long-name": "n" * 300,
    "parent": "../../../victim",
    "absolute": "/nowhere/victim",
    "dots": "..",
    "surrogate": "lone \ud800 surrogate",
    "escapes": "\x1b[31mred\x1b[0m \x07 \x9b",
    "bidi": "\u202egnp.exe",
    "lines": "one\nError: two\nthree",
    "nul": "nul\x00byte",
    "home": "~nosuchuser/x",
    "shell": "124M; touch X #",
    "substitution": "$(touch X)`touch X`${HOME}",
    "template": "{{ 7 * 7 }}{% raw %}",
    "markup": "<script>document.title='mine'</script>",
    "format": "%s%n{0}",
    "option": "--help",
    "url": "http://127.0.0.1:9/x",
    "empty-list": [],
    "list": [1, "two", None],
    "long-list": [0] * 5000,
    "empty-map": {},
    "map": {"a": {"b": 1}},
    "odd-keys": {"": 1, "\x1b": 2, "../x": 3},
}


def rng(name: str) -> random.Random:
    return random.Random(name)


def dump(value: Any) -> str:
    """JSON, with `Raw` as it stands."""
    raws: list[str] = []

    def mark(inner: Any) -> Any:
        if isinstance(inner, Raw):
            raws.append(inner)
            return f"\x00raw{len(raws) - 1}\x00"
        if isinstance(inner, dict):
            return {key: mark(item) for key, item in inner.items()}
        return [mark(item) for item in inner] if isinstance(inner, list | tuple) else inner

    text = json.dumps(mark(value), indent=1)
    return re.sub(r'"\\u0000raw(\d+)\\u0000"', lambda found: raws[int(found[1])], text)


def places(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a JSON value; of lists, the first two and the last."""
    if prefix:
        yield prefix
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*prefix, key))
    elif isinstance(value, list):
        for index in sorted({0, 1, len(value) - 1} & set(range(len(value)))):
            yield from places(value[index], (*prefix, index))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at `path`."""
    copy = deepcopy(value)
    inner = copy
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = new
    return copy


def removed(value: Any, path: tuple[Any, ...]) -> Any:
    copy = deepcopy(value)
    inner = copy
    for part in path[:-1]:
        inner = inner[part]
    del inner[path[-1]]
    return copy


def json_mutations(value: Any, name: str, count: int) -> Iterator[tuple[str, str]]:
    """(name, text) of JSON that differs in one place from a valid value, or in its bytes."""
    random_ = rng(name)
    where = list(places(value))
    seen: set[str] = set()
    while len(seen) < count:
        kind = random_.random()
        if kind < 0.75:
            path = random_.choice(where)
            label = random_.choice(list(VALUES))
            key, text = f"{dotted(path)}={label}", dump(replaced(value, path, VALUES[label]))
        elif kind < 0.85:
            path = random_.choice(where)
            key, text = f"{dotted(path)} is removed", dump(removed(value, path))
        elif kind < 0.9:
            path = random_.choice(where)
            key = f"{dotted(path)} has an unknown neighbour"
            neighbour = (*path[:-1], "surprise\x1b[31m")
            whole = value if path[:-1] else {}
            text = dump(replaced(whole, neighbour, 1) if isinstance(path[-1], str) else [value])
        else:
            label, data = mutated(json.dumps(value, indent=1).encode(), f"{name}{len(seen)}")
            key, text = f"bytes: {label}", data.decode("latin-1")
        if key not in seen:
            seen.add(key)
            yield key, text


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)


def _flip(data: bytearray, at: int, random_: random.Random) -> None:
    if data:
        data[min(at, len(data) - 1)] ^= 1 << random_.randrange(8)


def _flips(data: bytearray, at: int, random_: random.Random) -> None:
    for _ in range(50 if data else 0):
        data[random_.randrange(len(data))] = random_.randrange(256)


def _cut(data: bytearray, at: int, random_: random.Random) -> None:
    del data[at:]


def _insert(data: bytearray, at: int, random_: random.Random) -> None:
    data[at:at] = random_.randbytes(random_.randrange(1, 200))


def _swap(data: bytearray, at: int, random_: random.Random) -> None:
    block = max(1, len(data) // 7)
    one = random_.randrange(len(data) + 1)
    here, there = data[one : one + block], data[at : at + block]
    data[one : one + len(here)], data[at : at + len(there)] = there, here


def _zero(data: bytearray, at: int, random_: random.Random) -> None:
    block = max(1, len(data) // 5)
    data[at : at + block] = bytes(len(data[at : at + block]))


def _ones(data: bytearray, at: int, random_: random.Random) -> None:
    data[at : at + 8] = b"\xff" * len(data[at : at + 8])


def _double(data: bytearray, at: int, random_: random.Random) -> None:
    data += data[:]


def _page(data: bytearray, at: int, random_: random.Random) -> None:
    data[:] = b"<!DOCTYPE html><html><title>404</title>"


def _head(data: bytearray, at: int, random_: random.Random) -> None:
    data[:16] = random_.randbytes(len(data[:16]))


def _tail(data: bytearray, at: int, random_: random.Random) -> None:
    data[-16:] = random_.randbytes(len(data[-16:]))


DAMAGE = (_flip, _flips, _cut, _insert, _swap, _zero, _ones, _double, _page, _head, _tail)


def mutated(data: bytes, name: str) -> tuple[str, bytes]:
    """What was done, and the bytes after it."""
    random_ = rng(name)
    damage, at = random_.choice(DAMAGE), random_.randrange(len(data) + 1)
    changed = bytearray(data)
    damage(changed, at, random_)
    return f"{damage.__name__[1:]} at {at}", bytes(changed)
