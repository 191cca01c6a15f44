"""Command lines that nobody should write, and somebody will."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS as SUBCOMMANDS
from tests.helpers.arena import COMMANDS, Arena, Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TEXTS = {
    "empty": "",
    "blank": " ",
    "dots": "..",
    "parent": "../../../victim",
    "absolute": "/nowhere/victim",
    "home": "~nosuchuser/x",
    "long path": "p/" * 2500,
    "long name": "n" * 300,
    "long text": "long " * 20_000,
    "escapes": "\x1b[31mred\x1b[0m\x07\x9b",
    "bidi": "\u202egnp.exe",
    "lines": "one\nError: two\nthree",
    "not UTF-8": os.fsdecode(b"caf\xe9\xff"),
    "prompt with a dollar": "$HOME ${seed} $(touch X)",
    "shell": "x; touch X #",
    "template": "{{ 7 * 7 }}",
    "markup": "<script>1</script>",
    "format": "%s%n{0}",
    "equals": "==",
    "minus": "-1",
    "device": "/dev/zero",
    "null device": "/dev/null",
    "folder": "data",
    "quote": 'it\'s "quoted" `x`',
}
NUMBERS = (
    "-1", "0", "1e9", "nan", "inf", "-inf", "1e400", "9" * 5000, "1.5", "0x10", "١", "", "ten",
    "10000000", "1000000000000", str(2**63), str(-(2**64)), "1_000", "-0.0", "5e-324",
)  # fmt: skip
TEXT_OPTIONS = {
    "generate": ("--model", "--params", "--weights", "--precision"),
    "export": ("--model", "--params", "--weights"),
    "sweep": ("--where", "--commit", "--since", "--metric", "--experiment", "--reports"),
    "runs": ("--metric",),
    "sync": ("--journals",),
}
NUMBER_OPTIONS = {
    "generate": ("--temperature", "--top-k", "--top-p", "--min-p", "--max-new-tokens", "--seed",
        "--num-samples"),
    "ui": ("--port",),
}  # fmt: skip
SHORT = ("--max-new-tokens", "3")
STAGE_OPTIONS = {
    "identify": ("--report", "--start", "--params"),
    "prepare": ("--corpus", "--report", "--params"),
    "split": ("--corpus", "--tokens", "--report", "--params"),
    "train": ("--tokens", "--model", "--reports", "--journal", "--params"),
    "evaluate": ("--tokens", "--model", "--parent", "--report", "--journal"),
    "sample": ("--tokens", "--model", "--parent", "--reports"),
    "fetch_gpt2": ("--size", "--report"),
    "baseline": ("--size", "--weights", "--tokens", "--token-losses"),
    "compare": ("--corpus", "--history", "--baselines", "--token-losses", "--samples", "--reports"),
}
# What these write may lie wherever the command line says.
WRITES = {"parent", "absolute", "device", "folder", "null device"}


def _argv(command: str, *rest: str) -> tuple[str, ...]:
    if command == "generate":
        rest = (*rest, "The") + (() if "--max-new-tokens" in rest else SHORT)
    if command == "export":
        rest = (*rest, "exported")
    if command == "sweep" and "--log" not in rest:
        rest = (*rest, "--no-log")
    return ("lossbook", command, *rest)


def _numbers() -> Iterator[Case]:
    for command, options in NUMBER_OPTIONS.items():
        for option in options:
            for number in NUMBERS:
                if command == "ui" and number in ("1_000", "١"):  # ports, and a server at them
                    continue
                name = f"{command} {option} {number[:40]!r}"
                yield Case(
                    name,
                    _argv(command, option, number),
                    names=(option, option[2:].replace("-", "_")),
                    shows_text=True,
                )


def _texts() -> Iterator[Case]:
    for command, options in TEXT_OPTIONS.items():
        for index, option in enumerate(options):
            for turn, (label, text) in enumerate(TEXTS.items()):
                if option in ("--reports",) and label in WRITES:
                    continue
                if (turn + index) % 2 and label not in (
                    "escapes",
                    "lines",
                    "long text",
                    "not UTF-8",
                    "home",
                ):
                    continue
                name = f"{command} {option} {label}"
                yield Case(name, _argv(command, option, text), shows_text=command == "generate")
    for label, text in TEXTS.items():
        yield Case(
            f"generate PROMPT {label}",
            ("lossbook", "generate", *SHORT, "--", text),
            shows_text=True,
        )
        yield Case(f"lossbook {label}", ("lossbook", text), fails=True)
        if label not in WRITES:
            yield Case(f"export FOLDER {label}", ("lossbook", "export", "--", text))


def _stages() -> Iterator[Case]:
    labels = [label for label in TEXTS if label not in WRITES]
    for turn, (stage, options) in enumerate(STAGE_OPTIONS.items()):
        argv = list(COMMANDS[stage])
        for index, option in enumerate(options):
            for step in range(3):
                label = labels[(turn * 5 + index * 3 + step * 7) % len(labels)]
                changed = [*argv, option, TEXTS[label]]
                outputs = ("data", "models", "reports", "journals")
                yield Case(f"{stage} {option} {label}", tuple(changed), replaces=outputs)
        yield Case(f"{stage} without options", (argv[0],), fails=True)
        yield Case(f"{stage} with one too many", (*argv, "surplus"), fails=True)
        yield Case(f"{stage} with an unknown option", (*argv, "--surprise\x1b[31m"), fails=True)


def _stdin() -> Iterator[Case]:
    prompts = {
        "empty": b"",
        "not UTF-8": b"\xff\xfe",
        "nul": b"a\0b",
        "escapes": b"\x1b[31m",
        "a megabyte": b"word " * 200_000,
        "no spaces": b"a" * 1_000_000,
        "only spaces": b" " * 300_000,
        "surrogates": b"\xed\xa0\x80",
        "end of text": b"<|endoftext|>" * 100,
    }
    for label, data in prompts.items():
        yield Case(
            f"generate from standard input: {label}",
            ("lossbook", "generate", *SHORT),
            stdin=data,
            shows_text=True,
        )
        yield Case(
            f"generate - with {label}",
            ("lossbook", "generate", *SHORT, "--json", "-"),
            stdin=data,
            shows_text=True,
        )


def _others() -> Iterator[Case]:
    yield Case("10,000 arguments", ("lossbook", "generate", *["word"] * 10_000), fails=True)
    yield Case("10,000 conditions", ("lossbook", "sweep", "--no-log", *["--where", "a=b"] * 5_000))
    for uri in (
        "nonsense",
        "http://",
        "http://127.0.0.1:9",
        "postgresql://127.0.0.1:9/x",
        "sqlite:///data",
        "sqlite:///story.txt",
        "file:///nowhere",
        "mysql://u:secret@h/x",
        "s3://x",
        "http://[::1",
        "databricks",
        "\x1b[31m",
    ):
        for command in ("sync", "reap", "sweep", "runs"):
            if command not in SUBCOMMANDS:
                continue
            yield Case(
                f"{command} with the store {uri}",
                _argv(command),
                environment={"MLFLOW_TRACKING_URI": uri},
                names=(
                    uri.rpartition("/")[2] or uri,
                    "MLFLOW_TRACKING_URI",
                    ascii(uri)[1:-1],
                    "[31m",
                ),
                seconds=40,
            )


def cases() -> Iterator[Case]:
    yield from _numbers()
    yield from _texts()
    yield from _stages()
    yield from _stdin()
    yield from _others()


def test_commands(arena: Arena, finished: Path) -> None:
    arena.check("commands", cases(), finished)
