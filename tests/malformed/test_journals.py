"""Journals, state folders and cursors: torn, forged, pulled from elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.arena import COMMANDS, Arena, Case, swapped
from tests.helpers.malformed import VALUES, Raw, dump, json_mutations, mutated, replaced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS = ("lossbook", "runs")
JSON = ("lossbook", "runs", "--json")
SYNC = ("lossbook", "sync")
REAP = ("lossbook", "reap")
DISCARD = ("lossbook", "reap", "--discard")
NAMES = ("journal", ".lossbook", "journals", "state", "shipped.json", "run ")


def _journal(repo: Path, place: str = "journals") -> Path:
    (path,) = (repo / ".lossbook" / place).glob("train-*/journal.jsonl")
    return path


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _line(value: Any) -> str:
    return dump(value).replace("\n", " ") + "\n"


def _text(lines: list[Any]) -> bytes:
    return "".join(map(_line, lines)).encode("utf-8", "surrogatepass")


def _forged(lines: list[Any], seed: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Journals that differ in one line, each kind of line in turn."""
    kinds: dict[str, int] = {}
    for index, line in enumerate(lines):
        kinds.setdefault(",".join(sorted(line.keys() - {"t"})), index)
    for kind, index in kinds.items():
        for name, text in json_mutations(
            lines[index], f"{seed} {kind}", max(2, count // len(kinds))
        ):
            # to publish a model takes seconds
            others = [line if "model" not in line or kind == "model" else None for line in lines]
            before = _text([line for line in others[:index] if line])
            after = _text([line for line in others[index + 1 :] if line])
            line = text.replace("\n", " ").encode("utf-8", "surrogatepass") + b"\n"
            yield f"{kind}: {name}", before + line + after


def _headers(lines: list[Any]) -> Iterator[tuple[str, bytes]]:
    """Journals whose first line names what it should not."""
    for key in ("run", "stage", "experiment", "name", "parent", "state"):
        for label in (
            "parent",
            "absolute",
            "dots",
            "long-name",
            "nul",
            "escapes",
            "lines",
            "empty-text",
            "list",
            "null",
            "5000-digits",
            "surrogate",
            "shell",
            "markup",
            "home",
            "bidi",
            "map",
        ):
            forged = replaced(lines, (0, "create", key), VALUES[label])
            yield f"create.{key}={label}", _text(forged)


def _worst(lines: list[Any]) -> Iterator[tuple[str, bytes]]:
    whole = _text(lines)
    end = [{"t": 1, "end": "FINISHED"}]
    yield "empty", b""
    yield "one byte", b"{"
    yield "no newline", whole.rstrip(b"\n")
    yield "blank lines", b"\n\n" + whole
    yield "no create", _text(lines[1:])
    yield "create twice", _text([lines[0], *lines])
    yield "create late", _text([*lines[1:3], lines[0], *lines[3:]])
    yield "ends twice", whole + _text(end * 2)
    yield "after the end", whole + _text([{"t": 5, "s": 1, "m": {"a": 1.0}}])
    yield "ends in surprise", _text([*lines[:-1], {"t": 1, "end": "SURPRISE"}])
    yield "ends in a number", _text([*lines[:-1], {"t": 1, "end": 7}])
    yield "time is text", _text([{**lines[0], "t": "now"}, *lines[1:]])
    yield "time is huge", _text([{**lines[0], "t": 10**30}, *lines[1:]])
    yield "time is negative", _text([{**lines[0], "t": -(10**15)}, *lines[1:]])
    yield "time is 1e300", _text([{**lines[0], "t": 1e300}, *lines[1:]])
    yield "time is beyond calendars", _text([{**lines[0], "t": 10**15}, *lines[1:]])
    yield "a step of text", whole + _text([{"t": 1, "s": "one", "m": {"a": 1}}])
    yield "a step of 10^30", whole + _text([{"t": 1, "s": 10**30, "m": {"a": 1}}])
    yield "a step missing", whole + _text([{"t": 1, "m": {"a": 1}}])
    yield "a metric of text", whole + _text([{"t": 1, "s": 1, "m": {"a": "high"}}])
    yield "a metric of null", whole + _text([{"t": 1, "s": 1, "m": {"a": None}}])
    yield "a metric of a list", whole + _text([{"t": 1, "s": 1, "m": {"a": [1]}}])
    yield "metrics of a list", whole + _text([{"t": 1, "s": 1, "m": [1]}])
    yield "a metric of 5,000 digits", whole + _text([{"t": 1, "s": 1, "m": {"a": Raw("9" * 5000)}}])
    yield "a metric's name with escapes", whole + _text([{"t": 1, "s": 1, "m": {"\x1b[31m": 1}}])
    yield "a metric's name that leaves", whole + _text([{"t": 1, "s": 1, "m": {"../../victim": 1}}])
    yield (
        "10,000 metrics in a line",
        whole + _text([{"t": 1, "s": 1, "m": {f"m{i}": i for i in range(10_000)}}]),
    )
    yield "params of numbers", whole + _text([{"t": 1, "params": {"a": 1, "b": [2]}}])
    yield "params of a list", whole + _text([{"t": 1, "params": [1]}])
    yield "a param of a megabyte", whole + _text([{"t": 1, "params": {"a": "x" * 1_000_000}}])
    yield "a param with another value", whole + _text([{"t": 1, "params": {"seed": "surprise"}}])
    yield "tags of numbers", whole + _text([{"t": 1, "tags": {"a": 1}}])
    yield "tags with escapes", whole + _text([{"t": 1, "tags": {"\x1b[31m": "\x1b[31m"}}])
    yield (
        "a tag of null that was never there",
        whole + _text([{"t": 1, "tags": {"surprise": None}}]),
    )
    yield (
        "a tag of the process",
        whole + _text([{"t": 1, "tags": {"lossbook.pid": "../1", "lossbook.host": "\x1b"}}]),
    )
    yield "an input of text", whole + _text([{"t": 1, "input": "text"}])
    yield (
        "an input of nulls",
        whole
        + _text(
            [
                {
                    "t": 1,
                    "input": {
                        "name": None,
                        "source": None,
                        "digest": None,
                        "context": None,
                        "profile": None,
                    },
                }
            ]
        ),
    )
    for path in (
        "../../../../victim/keep.txt",
        "/nowhere/victim",
        "",
        ".",
        "..",
        "a/../../b",
        "n" * 300,
        "nul\0",
        "\x1b[31m",
        "artifact",
        "x" * 5000,
    ):
        for where in ("path", "reference"):
            artifact = {
                "path": "figures/loss.png",
                "sha256": "0" * 64,
                "bytes": 5,
                "md5": "0" * 32,
                where: path,
            }
            yield (
                f"an artifact's {where} {path[:30]!r}",
                whole + _text([{"t": 1, "artifact": artifact}]),
            )
    for md5 in ("../../../../victim/keep.txt", "", "/etc/passwd", None, 7):
        artifact = {
            "path": "a.bin",
            "sha256": "0" * 64,
            "bytes": 5,
            "reference": "nowhere",
            "md5": md5,
        }
        yield f"an artifact's md5 {md5!r}", whole + _text([{"t": 1, "artifact": artifact}])
    for size in (-1, 10**30, "many", None, 1.5):
        yield (
            f"an artifact's bytes {size!r}",
            whole
            + _text(
                [
                    {
                        "t": 1,
                        "artifact": {
                            "path": "a.bin",
                            "sha256": "0" * 64,
                            "bytes": size,
                            "reference": "story.txt",
                            "md5": "0",
                        },
                    }
                ]
            ),
        )
    yield "an artifact of text", whole + _text([{"t": 1, "artifact": "text"}])
    yield "a model of text", whole + _text([{"t": 1, "model": "text"}])
    yield "a model of nothing", whole + _text([{"t": 1, "model": {}}])
    yield "an unknown line", whole + _text([{"t": 1, "surprise": 1}])
    yield "lines of lists", whole + b"[1]\n1\nnull\n"
    yield "not UTF-8", whole + b'{"t": 1, "tags": {"a": "\xff"}}\n'
    yield "deep", whole + b'{"t": 1, "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    yield "a long line", whole + b'{"t": 1, "a": "' + b"x" * 20_000_000 + b'"}\n'
    yield "zeroes", whole + bytes(100_000)
    yield "a resume after the end", whole + _text([{"t": 9, "resume": {}}])
    yield (
        "its own parent",
        _text(replaced(lines, (0, "create", "parent"), lines[0]["create"]["run"])),
    )


Put = Callable[[Path, bytes], None]


def _archived(repo: Path, data: bytes) -> None:
    _journal(repo).write_bytes(data)


def _pulled(repo: Path, data: bytes) -> None:
    shutil.rmtree(repo / ".lossbook")
    for name in ("evaluate", "baseline", "compare"):
        shutil.rmtree(repo / "journals" / name)
    (repo / "journals/train/journal.jsonl").write_bytes(data)


def _at_work(repo: Path, data: bytes) -> None:
    """A run that a kill left behind."""
    state = repo / ".lossbook/state/train-0123456789abcdef"
    state.mkdir(parents=True)
    _journal(repo).parent.rename(state.parent / "aside")
    shutil.rmtree(state.parent / "aside")
    (state / "journal.jsonl").write_bytes(data)
    (state / "checkpoints").mkdir()
    (state / "checkpoints/keep.bin").write_bytes(b"keep")


def _put(how: Put, data: bytes) -> Callable[[Path], None]:
    return lambda repo: how(repo, data)


def _cursors() -> Iterator[tuple[str, bytes]]:
    valid = {
        "mlflow.db": {
            "run_id": "0" * 32,
            "offset": 100,
            "linked": False,
            "missing": [],
            "refused": {},
        }
    }
    for name, text in json_mutations(valid, "cursor", 25):
        yield name, text.encode("utf-8", "surrogatepass")
    for offset in (-1, 10**9, 10**30, 1.5, "x"):
        yield f"offset {offset!r}", dump(replaced(valid, ("mlflow.db", "offset"), offset)).encode()
    for missing in (
        "x",
        [1],
        [{}],
        [{"artifact": {}}],
        [{"artifact": {"path": "../../../../victim/keep.txt"}, "why": "x"}],
        [{"model": {}}],
    ):
        yield (
            f"missing {missing!r}",
            dump(replaced(valid, ("mlflow.db", "missing"), missing)).encode(),
        )


def _odd(repo: Path, file: str, how: str, place: str = "journals") -> None:
    path = _journal(repo, place).parent / file
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a fifo":
        os.mkfifo(path)
    elif how == "a link to itself":
        path.symlink_to(path.name)
    elif how == "a broken link":
        path.symlink_to("nowhere")
    elif how == "a link outside":
        path.symlink_to("../../../../victim/keep.txt")


def _linked_folder(repo: Path, name: str, place: str) -> None:
    (repo / ".lossbook" / place).mkdir(parents=True, exist_ok=True)
    shutil.copy(_journal(repo), repo.parent / "victim/journal.jsonl")
    (repo / ".lossbook" / place / name).symlink_to(repo.parent / "victim")


VERBS = {"runs": RUNS, "sync": SYNC, "reap": REAP, "discard": DISCARD, "json": JSON}
ODD = ("a folder", "a fifo", "a link to itself", "a broken link", "a link outside", "missing")


def _from_headers(lines: list[Any]) -> Iterator[Case]:
    for index, (name, data) in enumerate(_headers(lines)):
        yield Case(f"sync, pulled: {name}", SYNC, _put(_pulled, data), NAMES)
        if index % 3 == 0:
            yield Case(f"runs, pulled: {name}", RUNS, _put(_pulled, data), NAMES)
        if index % 2 == 0:
            yield Case(f"discard: {name}", DISCARD, _put(_at_work, data), NAMES)
        if index % 5 == 0:
            yield Case(f"runs: {name}", RUNS, _put(_archived, data), NAMES)


def _from_lines(journals: list[tuple[str, bytes]]) -> Iterator[Case]:
    for index, (name, data) in enumerate(journals):
        yield Case(f"sync: {name}", SYNC, _put(_archived, data), NAMES)
        if index % 2 == 0:
            yield Case(f"runs: {name}", RUNS, _put(_archived, data), NAMES)
        if index % 4 == 0:
            yield Case(f"reap: {name}", REAP, _put(_at_work, data), NAMES)
        if index % 9 == 0:
            yield Case(f"a stage starts: {name}", COMMANDS["sample"], _put(_at_work, data), NAMES)


def _from_cursors() -> Iterator[Case]:
    for name, data in _cursors():

        def change(repo: Path, data: bytes = data) -> None:
            (_journal(repo).parent / "shipped.json").write_bytes(data)

        yield Case(f"sync: shipped.json: {name}", SYNC, change, NAMES)
        yield Case(f"runs: shipped.json: {name}", JSON, change, NAMES)


def _from_files() -> Iterator[Case]:
    files = ("journal.jsonl", "shipped.json", "ship.lock", "lock", "exited", "artifacts")
    for index, (file, how) in enumerate(product(files, ODD)):
        for verb in ("sync", "reap") if index % 2 else ("runs",):
            change = partial(_odd, file=file, how=how)
            yield Case(f"{verb}: {file} is {how}", VERBS[verb], change, NAMES)
    for place, verb in product(("state", "journals"), VERBS):
        change = partial(_linked_folder, name="train-linked", place=place)
        yield Case(f"{verb}: a linked folder in {place}", VERBS[verb], change)


def cases(finished: Path) -> Iterator[Case]:
    lines = _lines(_journal(finished / "repo"))
    forged = [*_forged(lines, "journal", 75)]
    lines = [line for line in lines if "model" not in line]
    damaged = [mutated(_text(lines), f"journal {index}") for index in range(25)]
    for verb, argv in VERBS.items():
        yield Case(f"{verb}: unharmed", argv, fails=False)
    yield from _from_headers(lines)
    yield from _from_lines([*_worst(lines), *forged])
    yield from _from_cursors()
    yield from _from_files()
    for index, (what, data) in enumerate(damaged):
        yield Case(f"sync: {index}: {what}", SYNC, _put(_archived, data), NAMES)


def _going_on(killed: Path) -> Iterator[Case]:
    """A training that goes on with what a kill left."""
    (state,) = (killed / "repo/.lossbook/state").glob("train-*")
    for file in sorted(p.relative_to(state) for p in state.rglob("*") if p.is_file()):
        valid = (state / file).read_bytes()
        names = (state.name, "checkpoint", file.name)
        for index in range(8 if valid else 0):
            what, data = mutated(valid, f"{file} {index}")
            change = swapped(f".lossbook/state/{state.name}/{file}", data)
            yield Case(f"go on: {file}: {index}: {what}", COMMANDS["train"], change, names)
        for odd in ("missing", "a folder", "a fifo", "a link to itself"):
            change = swapped(f".lossbook/state/{state.name}/{file}", None, odd)
            yield Case(f"go on: {file} is {odd}", COMMANDS["train"], change, names)
    lines = _lines(state / "journal.jsonl")
    for name, data in [*[*_headers(lines)][::4], *[*_worst(lines)][::3]]:
        change = swapped(f".lossbook/state/{state.name}/journal.jsonl", data)
        yield Case(f"go on: {name}", COMMANDS["train"], change, (state.name, "journal"))
    yield Case("go on: unharmed", COMMANDS["train"], fails=False)


@pytest.fixture(scope="session")
def killed(arena: Arena, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, but the training was killed behind its last step."""
    place = tmp_path_factory.mktemp("killed") / "place"
    shutil.copytree(finished, place, symlinks=True)
    repo = place / "repo"
    for folder in ("models", ".lossbook", "journals"):
        shutil.rmtree(repo / folder)
    command = ("tests.malformed.programs:train_killed", *COMMANDS["train"][1:])
    environment = {"LOSSBOOK_CACHE": str(place / "cache"), "LOSSBOOK_OFFLINE": "1"}
    ended = arena._all[0].run(
        command, repo, place.with_suffix(".log"), environment=environment, seconds=60
    )
    assert ended.status == -9, ended
    return place


@pytest.fixture(scope="session")
def journalled(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, with the journals of a training and of what was sampled from it."""
    place = tmp_path_factory.mktemp("journalled") / "place"
    shutil.copytree(finished, place, symlinks=True)
    for path in (place / "repo/.lossbook/journals").iterdir():
        if not path.name.startswith(("train-", "sample-")):
            shutil.rmtree(path)
    return place


def test_journals(arena: Arena, journalled: Path) -> None:
    arena.check("journals", cases(journalled), journalled)


def test_state(arena: Arena, killed: Path) -> None:
    arena.check("state", _going_on(killed), killed)
