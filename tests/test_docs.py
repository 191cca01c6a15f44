"""README and `docs/` tell no command, param, file or picture that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from pipeline.cli import main as lossbook
from pipeline.params import Params
from tests.helpers.commands_in_docs import PAGES, ROOT, all_commands

PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]{2,}\b|…")  # of a usage: PATH, NAME, REV
TARGETS = set(re.findall(r"(?m)^([a-z-]+):.*##", (ROOT / "Makefile").read_text()))


def check_lossbook(words: list[str]) -> None:
    name, *arguments = words[1:]
    command = lossbook.get_command(click.Context(lossbook), name)
    assert command is not None, f"lossbook has no command {name}"
    if not PLACEHOLDER.search(" ".join(arguments)):
        command.make_context(name, list(arguments), resilient_parsing=False)


def check_dvc(words: list[str]) -> None:
    from dvc.cli.parser import get_main_parser

    if PLACEHOLDER.search(" ".join(words)) or words[1:] == ["plots"]:  # a family of commands
        return
    asked = get_main_parser().parse_args(words[1:])
    check_settings(getattr(asked, "set_param", None) or [])


def check_settings(settings: list[str]) -> None:
    """`train.learning_rate=1e-3,4e-3`: the key is there, and each value is one that it takes, with
    the first of the others that the command names."""
    named: dict[str, list[str]] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        named[key] = [value] if value.startswith("[") else value.split(",")
    firsts = {key: values[0] for key, values in named.items()}
    for key, values in named.items():
        for value in values:
            content: dict[str, Any] = Params().model_dump()
            for name, one in {**firsts, key: value}.items():
                *path, last = name.split(".")
                section = content
                for part in path:
                    section = section[part]
                assert last in section, f"no such param: {name}"
                section[last] = YAML(typ="safe").load(one)
            Params.model_validate_json(json.dumps(content))


def check_make(words: list[str]) -> None:
    assert set(words[1:]) <= TARGETS, f"make has no such target: {words[1:]}"


def check_python(words: list[str]) -> None:
    for word in words[1:]:
        if word.endswith(".py") or word.startswith(("tests/", "docs/", "benchmarks/")):
            assert (ROOT / word).exists(), f"no such file: {word}"


CHECKS = {"lossbook": check_lossbook, "dvc": check_dvc, "make": check_make, "python": check_python}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_there_is(page: Path) -> None:
    for words in all_commands(page):
        check = CHECKS.get(words[0])  # what belongs to others, `curl` or `createdb`, is theirs
        if check is not None:
            try:
                check(words)
            except (click.ClickException, SystemExit) as error:
                raise AssertionError(f"{' '.join(words)}: {error}") from None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_every_page_is_listed_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in readme, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = re.findall(r"`((?:pipeline|stages|tests|benchmarks)/[\w/.]+)`", page.read_text("utf-8"))
    for name in named:
        assert (ROOT / name).exists() or "NAME" in name, f"{page.name} names {name}"


def test_the_tree_of_the_readme_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", readme, re.S)
    rooms = set(re.findall(r"(?m)^  ([a-z0-9_]+)/", tree))
    assert rooms == {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
