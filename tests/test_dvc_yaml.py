"""dvc.yaml names every package that decides a stage's result, and every section that it reads.

DVC does not follow imports, so this does. What only observes is listed here, once: a tweak of it
must not retrain.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.gpt2.sizes import SIZES

ROOT = Path(__file__).parents[1]
STAGES: dict[str, dict] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
MOST_PATHS = 6
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)

# They decide nothing about a result: how it is written, recorded, shown on a terminal or served.
# What params would change is in dvc.yaml's `params`, what reports would in their writers.
OBSERVERS = (
    "pipeline.commands",
    "pipeline.errors",
    "pipeline.numbers",
    "pipeline.params",
    "pipeline.params_advice",
    "pipeline.params_errors",
    "pipeline.plots",
    "pipeline.reports",
    "pipeline.serving",
    "pipeline.system",
    "pipeline.tracking",
)
# A name's weights are found there, and what was found is in reports/start.json.
FINDERS = ("pipeline.weights",)
DRAWING = {"compare", "sample"}  # for these the drawing is the result
# Samples show how a training goes, and change no weight; what GPT-2 thinks of samples goes to
# MLflow alone.
OBSERVED_BY = {"train": ("pipeline.generation",), "sample": ("pipeline.gpt2",)}


def path_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imports(path: Path) -> set[str]:
    """Modules of this project that a file imports, at its top or inside a function."""
    found: set[str] = set()
    checking = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            checking |= {id(inner) for inner in ast.walk(node)}
        if id(node) in checking:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {m for m in found if m.split(".")[0] in {"pipeline", "stages"} and path_of(m)}


def is_of(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def observes(module: str, stage: str) -> bool:
    if stage in DRAWING and is_of(module, ("pipeline.plots",)):
        return False
    return is_of(module, OBSERVERS + OBSERVED_BY.get(stage, ()))


def modules_of(stage: str) -> set[str]:
    """The files that a stage's script reaches by imports, without observers."""
    todo, seen = [f"stages.{stage}"], set()
    while todo:
        module = todo.pop()
        path = path_of(module)
        if path is None or module in seen or observes(module, stage):
            continue
        seen.add(module)
        todo += imports(path)
    paths = {path_of(module) for module in seen if not is_of(module, FINDERS)}
    return {str(p.relative_to(ROOT)) for p in paths if p and p.name != "__init__.py"}


def code_paths(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage].get("deps", []) if dep.startswith("pipeline/")]


WITH_CODE = [stage for stage in STAGES if not STAGES[stage].get("always_changed")]


@pytest.mark.parametrize("stage", WITH_CODE)
def test_deps_hold_every_module_that_a_stage_imports(stage: str) -> None:
    paths = code_paths(stage)
    holds = {p: {m for m in modules_of(stage) if m == p or m.startswith(f"{p}/")} for p in paths}
    needed = modules_of(stage) - {f"stages/{stage}.py"}  # which decides nothing, see below
    assert needed - set().union(*holds.values()) == set(), "imported, but not in deps"
    assert [path for path in paths if not holds[path]] == [], "in deps, but nothing is imported"
    assert len(paths) <= MOST_PATHS


@pytest.mark.parametrize("script", [*(ROOT / "stages").glob("[a-z]*.py")], ids=lambda p: p.stem)
def test_a_script_is_options_and_one_call(script: Path) -> None:
    """So it decides nothing: what DVC runs it with is in `cmd`, and the rest is in the library."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, DEFINITIONS)] == ["main"]
    called = imports(script) - {"pipeline.commands.console"}
    assert len({module for module in called if path_of(module)}) == 1


def test_stages_that_always_run_list_no_code() -> None:
    assert {stage for stage in STAGES if not code_paths(stage)} == {"identify", "fetch_gpt2"}


def test_what_python_leaves_in_a_package_changes_no_stage() -> None:
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text().splitlines()


def bodies_of(stage: str) -> list[ast.AST]:
    """The stage's script, and what it calls in its feature's `stage.py`, by name."""
    script = ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    bodies: list[ast.AST] = [script]
    for node in ast.walk(script):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        path = path_of(module or "")
        if path is None or path.stem not in {"stage", "identify"}:
            continue
        assert isinstance(node, ast.ImportFrom)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {one.name: one for one in tree.body if isinstance(one, DEFINITIONS)}
        todo, seen = [alias.name for alias in node.names], set()
        while todo:
            name = todo.pop()
            if name in defined and name not in seen:
                seen.add(name)
                bodies.append(defined[name])
                todo += [n.id for n in ast.walk(defined[name]) if isinstance(n, ast.Name)]
    return bodies


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_only_the_params_it_declares(stage: str) -> None:
    """`params.train.x` or `settings.train` in what the script calls is `train` in dvc.yaml."""
    sections = {"seed", "prepare", "split", "model", "train", "evaluate", "sample", "gpt2"}
    sections |= {"compare"}  # tracking decides where to write, not what
    declared = {p.split(".")[0] for p in STAGES[stage].get("params", [])}
    read = {
        node.attr
        for body in bodies_of(stage)
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value).split(".")[-1] in {"params", "load_params(params)", "settings"}
        and node.attr in sections
    }
    if stage in {"sample", "evaluate"}:
        read.discard("gpt2")  # where GPT-2 lies in the user's cache, not what it is
    if stage == "train":
        read.discard("sample")  # what a request to the served model leaves out
    if stage == "split":
        read.discard("prepare")  # who does the work, not what it is
    assert read <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_it_does(stage: str) -> None:
    assert STAGES[stage]["desc"]


def test_no_setting_reaches_a_shell() -> None:
    """DVC writes values into commands as they are; those that it may write stand in dvc.yaml."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(.*?)\}", text)) == {"item.size"}
    for stage in ("fetch_gpt2", "baseline"):
        assert STAGES[stage]["matrix"] == {"size": [*SIZES]}


def test_nothing_is_frozen_or_persisted_and_no_plain_out_skips_the_cache() -> None:
    """The latter two switch DVC's run cache off, so that going back to old params would retrain."""
    for name, stage in STAGES.items():
        assert not stage.get("frozen")
        for out in stage.get("outs", []):
            flags = next(iter(out.values())) if isinstance(out, dict) else {}
            assert not flags.get("persist"), name
            assert flags.get("cache", True) or stage.get("always_changed"), name
