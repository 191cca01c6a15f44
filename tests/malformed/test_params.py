"""params.yaml with everything in it that should not be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS as SUBCOMMANDS
from pipeline.params import Params
from tests.helpers.arena import COMMANDS, Arena, Case
from tests.helpers.malformed import VALUES, dotted, dump, json_mutations, places, replaced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOADS = ("tests.malformed.programs:params",)

DEFAULTS = json.loads(Params().model_dump_json())

WORST = {
    "empty": "",
    "blank": " \n\t",
    "comment": "# nothing\n",
    "null": "null",
    "number": "17",
    "list": "[1, 2]",
    "text": "just words",
    "tab": "train:\n\tepochs: 1\n",
    "open": "train: {epochs: [1",
    "quote": 'train: "',
    "byte order mark": "\ufefftrain: {epochs: 1}\n",
    "carriage returns": "train:\r\n  epochs: nothing\r\n",
    "old carriage returns": "train:\r  epochs: nothing\r",
    "twice": "seed: 1\nseed: 2\n",
    "twice in a section": "train: {epochs: 1, epochs: 2}\n",
    "key of null": "null: 1\n",
    "key of a number": "1: 1\n1.5: 2\ntrue: 3\n",
    "key of a list": "? [a, b]\n: 1\n",
    "key of a map": "? {a: b}\n: 1\n",
    "long key": f"{'k' * 100_000}: 1\n",
    "escapes in a key": '"\\e[31mred\\a": 1\n',
    "lines in a key": '"one\\nError: two": 1\n',
    "many keys": "".join(f"key{i}: {i}\n" for i in range(5000)),
    "many keys of a section": "train:\n" + "".join(f"  key{i}: {i}\n" for i in range(5000)),
    "several documents": "seed: 1\n---\nseed: 2\n",
    "only a mark": "---\n",
    "end mark": "...\n",
    "directive": "%YAML 9.9\n---\nseed: 1\n",
    "unknown directive": "%SURPRISE\n---\nseed: 1\n",
    "python tag": "seed: !!python/object/apply:os.system ['touch X']\n",
    "python name": "seed: !!python/name:os.system\n",
    "unknown tag": "seed: !surprise 1\n",
    "binary": "seed: !!binary SGVsbG8=\n",
    "binary text": "tracking: {experiment: !!binary SGVsbG8=}\n",
    "bad binary": "seed: !!binary '%%%'\n",
    "timestamp": "seed: 2024-01-01\n",
    "timestamp text": "tracking: {experiment: 2024-01-01T00:00:00Z}\n",
    "bad timestamp": "seed: !!timestamp 2024-99-99\n",
    "bad timestamp unmarked": "seed: 2024-02-31\n",
    "set": "gpt2: {sizes: !!set {124M, 355M}}\n",
    "ordered": "train: !!omap [epochs: 1]\n",
    "bad int": "seed: !!int surprise\n",
    "bad float": "seed: !!float surprise\n",
    "bad bool": "seed: !!bool surprise\n",
    "base 60": "seed: 1:30:00\n",
    "octal": "seed: 0o17\n",
    "underscores": "seed: 1_000\n",
    "merge": "a: &a {epochs: 1}\ntrain:\n  <<: *a\n",
    "merge of nothing": "train:\n  <<: 3\n",
    "merge of itself": "train: &t\n  <<: *t\n",
    "alias of nothing": "train: *nothing\n",
    "anchor twice": "train: &a {epochs: &a 1}\n",
    "anchor in itself": "train: &a {epochs: *a}\n",
    "anchor list in itself": "gpt2: {sizes: &a [*a]}\n",
    "nested anchors": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
    "nested anchors as prompts": "x: &a [p,p,p,p,p,p,p,p,p]\n"
    + "".join(f"x{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
    + "sample: {prompts: *i}\n",
    "nested anchors as maps": "a: &a {k: v}\n"
    + "".join(f"{b}: &{b} {{p: *{a}, q: *{a}, r: *{a}, s: *{a}}}\n" for a,
    b in pairwise("abcdefghijklmnop")),
    "deep block": "".join(f"{' ' * i}a:\n" for i in range(1500)),
    "deep flow": "train: " + "[" * 5000 + "]" * 5000,
    "deep flow maps": "train: " + "{a: " * 3000 + "1" + "}" * 3000,
    "deep flow, open": "train: " + "[" * 50_000,
    "long number": f"seed: {'9' * 5000}\n",
    "long hex number": f"seed: 0x{'f' * 5000}\n",
    "long float": f"train: {{learning_rate: 0.{'1' * 5000}}}\n",
    "long exponent": f"train: {{learning_rate: 1e{'9' * 500}}}\n",
    "infinity": "train: {learning_rate: .inf}\n",
    "nan": "train: {learning_rate: .nan}\n",
    "minus zero": "train: {learning_rate: -0.0}\n",
    "sizes with a command": 'gpt2: {sizes: ["124M; touch X #"]}\n',
    "sizes null": "gpt2: {sizes: null}\n",
    "sizes a text": "gpt2: {sizes: 124M}\n",
    "sizes a path": "gpt2: {sizes: [../x]}\n",
    "sizes maps": "gpt2: {sizes: [{a: b}]}\n",
    "sizes empty": "gpt2: {sizes: []}\n",
    "sizes twice": "gpt2: {sizes: [124M, 124M]}\n",
    "nul": "seed: 1\0\n",
    "control characters": "seed: '\x07\x1b[31m'\n",
    "c1 characters": "seed: '\x85\x9b'\n",
    "bidi": "tracking: {experiment: '\u202egnp'}\nseed: \u202e1\n",
    "interpolation": "seed: ${train.epochs}\n",
    "long line": f"tracking: {{experiment: '{'x' * 3_000_000}'}}\n",
    "long list": f"gpt2: {{sizes: [{'124M,' * 20_000}]}}\n",
    "long bad list": f"sample: {{grid: {{top_k: [{'-1,' * 20_000}]}}}}\n",
}  # fmt: skip
BYTES = {
    "not UTF-8": b"seed: \xff\xfe\n",
    "utf-16": "seed: 1\n".encode("utf-16"),
    "utf-32": "seed: 1\n".encode("utf-32"),
    "latin-1": "tracking: {experiment: Zürich}\n".encode("latin-1"),
    "overlong": b"seed: \xc0\x80\n",
    "surrogates": b"seed: \xed\xa0\x80\n",
    "zeroes": bytes(10_000),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(100),
    "10 MB": b"# " + b"x" * 10_000_000,
    "10 MB of keys": b"".join(b"k%d: 1\n" % i for i in range(60_000)),
}


def _texts() -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    for name, text in WORST.items():
        yield name, text.encode("utf-8", "surrogatepass"), ("params.yaml",)
    for name, data in BYTES.items():
        yield name, data, ("params.yaml",)
    leaves = [p for p in places(DEFAULTS) if not isinstance(p[-1], int)]
    labels = list(VALUES)
    for index, path in enumerate(leaves):
        for turn in range(3):
            label = labels[(index * 7 + turn * 13) % len(labels)]
            text = dump(replaced(DEFAULTS, path, VALUES[label]))
            yield f"{dotted(path)}={label}", text.encode(), (str(path[-1]), "params.yaml")
    for name, text in json_mutations(DEFAULTS, "params", 200):
        yield f"mutation {name}", text.encode("utf-8", "surrogatepass"), ("params.yaml",)


def _odd_files() -> Iterator[tuple[str, object]]:
    yield "missing", lambda path: path.unlink()
    yield "a folder", lambda path: (path.unlink(), path.mkdir())
    yield "a fifo", lambda path: (path.unlink(), os.mkfifo(path))
    yield "a broken link", lambda path: (path.unlink(), path.symlink_to("nowhere"))
    yield "a link to itself", lambda path: (path.unlink(), path.symlink_to("params.yaml"))
    yield "a device", lambda path: (path.unlink(), path.symlink_to("/dev/zero"))


def cases() -> Iterator[Case]:
    runs = [("loads", LOADS)] + ([("check", COMMANDS["check"])] if "check" in SUBCOMMANDS else [])
    for by, argv in runs:
        for name, data, names in _texts():
            yield Case(
                f"{by}: {name}",
                argv,
                lambda repo, data=data: (repo / "params.yaml").write_bytes(data),
                names,
            )
        for name, change in _odd_files():
            yield Case(
                f"{by}: {name}",
                argv,
                lambda repo, change=change: change(repo / "params.yaml"),
                ("params.yaml",),
                fails=True,
            )
    for name in (
        "sizes with a command",
        "nested anchors",
        "deep flow",
        "long number",
        "control characters",
    ):
        yield Case(
            f"in an experiment: {name}",
            COMMANDS["prepare"],
            lambda repo, text=WORST[name]: (repo / "params.yaml").write_text(text),
            ("params.yaml",),
            environment={"DVC_EXP_NAME": "ex\x1bp", "DVC_STAGE": "prepare"},
        )


def test_params(arena: Arena, plain: Path) -> None:
    arena.check("params", cases(), plain)
