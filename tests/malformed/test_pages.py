"""Hostile text on its way into pages: what a model, a corpus or a colleague may write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.arena import COMMANDS, Arena, Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TEXTS = {
    "script": "<script>document.title='mine'</script>",
    "image": '"><img src=x onerror="document.title=1">',
    "style": "</style></title></pre></table><iframe src='https://example.org'>",
    "template": "{{ 7919 * 7907 }}{% raw %}{# x #}",
    "control": "nul \x00 bell \x07 escape \x1b[31m c1 \x9b",
    "bidi": "\u202eturned\u2066 round",
    "lines": "one\n\ntwo\r\nthree\u2028four",
    "endless": "endless" * 20_000,
    "comments": "<!--" * 50_000,
    "brackets": "[" * 20_000 + "]" * 20_000,
    "backticks": "`" * 20_000,
    "pipes": "| a | b |\n|---|---|\n" * 500,
    "links": "[x](javascript:alert(1)) ![x](https://example.org/x.png) <https://example.org>",
    "entities": "&lt;&#x3c;&amp;&nosuch;&#0;&#xD800;",
    "mathematics": "$\\frac{1}{0}$ $$ \\input{/etc/passwd} $",
    "unbalanced dollar": "costs $5 and $",
    "dollar backslash": "$\\nosuchcommand$",
    "spaces": " " * 50_000,
    "combining": "a" + "\u0301" * 20_000,
    "emoji": "👩‍👩‍👧‍👦" * 500,
    "unassigned": "\U0010ffff\ufffe\uffff",
    "replacement": "\ufffd" * 100,
    "empty": "",
}  # fmt: skip


def _corpus(value: Any, text: str) -> None:
    value["corpus"] = value["source"] = text
    value["skipped"] = {text: 3}
    for excerpt in value["statistics"]["excerpts"]:
        excerpt.update(source=text, title=text, text=text)


def _split(value: Any, text: str) -> None:
    value["corpus"] = text
    for token in value["statistics"]["most_common"]:
        token["text"] = text


def _baseline(value: Any, text: str) -> None:
    for completion in value["completions"]:
        completion["completion"] = text


def _unavailable(value: Any, text: str) -> None:
    value.update(status="unavailable", reason=text)


def _samples(value: Any, text: str) -> None:
    for sample in value["samples"]:
        sample.update(completion=text, prompt=text, longest_copy=text, copies=[])


def _evaluation(value: Any, text: str) -> None:
    for completions in value["completions"].values():
        for completion in completions:
            completion["completion"] = text


def _run(value: Any, text: str) -> None:
    value["name"] = value["experiment"] = text


PLACES: dict[str, tuple[str, Callable[[Any, str], None]]] = {
    "corpus": ("corpus.json", _corpus),
    "split": ("split.json", _split),
    "baseline": ("baselines/124M.json", _baseline),
    "unavailable": ("baselines/124M.json", _unavailable),
    "samples": ("sampling_grid.json", _samples),
    "evaluation": ("evaluate.json", _evaluation),
    "run": ("train_run.json", _run),
}


def _into(place: str, text: str) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        file, put = PLACES[place]
        path = repo / "reports" / file
        value = json.loads(path.read_text())
        put(value, text)
        path.write_text(json.dumps(value))

    return change


def _in_params(text: str) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        values = json.loads((repo / "params.yaml").read_text())
        values["compare"]["prompts"] = [text, "The"]
        values["sample"]["prompts"] = [text, "The"]
        values["tracking"] = {"experiment": text}
        (repo / "params.yaml").write_text(json.dumps(values))

    return change


class Reader(HTMLParser):
    """Notes what a text must not bring into a page."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"the page has <{tag}>")
        for name, value in attrs:
            if name.startswith("on"):
                self.faults.append(f"the page has {name}=")
            if name in ("href", "src") and not (value or "").startswith(
                ("#", "data:", "https://", "comparison", "sweep")
            ):
                self.faults.append(f"the page has {name}={value!r}")
            if (value or "").startswith("https://example.org"):
                self.faults.append(f"the page has {name}={value!r}")


def _look(repo: Path) -> Iterator[str]:
    page = repo / "reports/comparison.html"
    text = page.read_text(encoding="utf-8")
    began = time.monotonic()
    reader = Reader()
    reader.feed(text)
    yield from dict.fromkeys(reader.faults)
    if "62615533" in text:
        yield "the page computes its text"
    if odd := {c for c in text if ord(c) < 32 and c not in "\n\t\r"}:
        yield f"the page holds {sorted(odd)!r}"
    if time.monotonic() - began > 10:
        yield "the page takes long to read"
    markdown = (repo / "reports/comparison.md").read_text(encoding="utf-8")
    if odd := {c for c in markdown if (ord(c) < 32 and c not in "\n\t\r") or c == "\x9b"}:
        yield f"comparison.md holds {sorted(odd)!r}"


def cases() -> Iterator[Case]:
    for label, text in TEXTS.items():
        for place in PLACES:
            name = f"{place}: {label}"
            yield Case(name, COMMANDS["compare"], _into(place, text), after=_look)
        if text:
            yield Case(f"params: {label}", COMMANDS["compare"], _in_params(text), after=_look)
            yield Case(f"sample: {label}", COMMANDS["sample"], _in_params(text))


def test_pages(arena: Arena, finished: Path) -> None:
    arena.check("pages", cases(), finished)
