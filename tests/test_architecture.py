"""Who may import whom: arrows point down the layers, in no circle, and heavy packages have owners.

Every import statement counts, at a module's top, inside a function or for type checkers alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top. A unit is a package or a module of `pipeline`, or `stages`; it may import units of
# the layers below it, and of its own layer only what SIDEWAYS names.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("stages", "cli", "commands"),
    (
        *("training", "evaluation", "comparison", "sampling", "sweep", "serving", "identify"),
        "verification",
    ),
    ("weights", "params_advice"),
    ("gpt2",),
    ("generation", "distributed"),
    ("model",),
    ("split",),
    ("corpus",),
    ("tokens",),
    ("tracking", "plots", "pages"),
    ("reports", "params", "params_errors"),
    ("system",),
    ("errors", "numbers"),
)
SIDEWAYS = {
    ("stages", "commands"),  # what every command does at the terminal's edge
    ("cli", "commands"),
    ("comparison", "sampling"),  # the page shows samples
    ("verification", "comparison"),  # what is verified: the rows,
    ("verification", "evaluation"),  # and the weights that they were measured of
    ("training", "serving"),  # the best weights are logged as a model to be served
    ("pages", "plots"),
    ("params", "params_errors"),
}
# Who imports what is heavy, by the beginning of the module's name.
OWNERS = {
    "tensorflow": ("pipeline.gpt2.tf_checkpoint",),
    "mlflow": ("pipeline.tracking.mlflow", "pipeline.serving"),
    "matplotlib": (
        "pipeline.plots",
        "pipeline.sweep.figures",
        "pipeline.sweep.ladder_figures",
        "pipeline.sampling.figures",
        "pipeline.comparison.figures",
        "pipeline.comparison.size_figure",
    ),
    "transformers": ("pipeline.verification.network",),
    "click": ("stages", "pipeline.commands", "pipeline.cli"),
}


def modules() -> dict[str, Path]:
    """The project's modules by name; a package goes by its folder's."""
    found = {}
    for path in sorted((*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/**/*.py"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Everything that a file's import statements name, `a.b.c` for `from a.b import c`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import it by its full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(name: str) -> str | None:
    """The module of this project that holds the name; None for what is not ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


IMPORTED = {module: imported(path) for module, path in MODULES.items()}
ARROWS = {
    module: {target for name in names if (target := module_of(name)) and target != module}
    for module, names in IMPORTED.items()
}


def unit_of(module: str) -> str:
    first, _, rest = module.partition(".")
    return "stages" if first == "stages" else rest.partition(".")[0]


def is_table(module: str) -> bool:
    """A module that imports nothing of the project: names and numbers that settings may check."""
    return not ARROWS[module]


def arrows_between_units() -> Iterator[tuple[str, str, str]]:
    """Each import from one unit to another, and its words."""
    for module, targets in ARROWS.items():
        for target in targets:
            source, goal = unit_of(module), unit_of(target)
            if source == goal or not (source and goal):
                continue
            if module == "pipeline.params" and is_table(target) and goal != "params_errors":
                continue
            yield source, goal, f"{module} imports {target}"


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_unit_has_a_layer() -> None:
    units = {unit_of(module) for module in MODULES} - {""}
    assert units == {unit for layer in LAYERS for unit in layer}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(ARROWS) == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for source, goal, _ in arrows_between_units():
        graph.setdefault(source, set()).add(goal)
    assert circle(graph) == []


def test_imports_point_down() -> None:
    depth = {unit: number for number, layer in enumerate(LAYERS) for unit in layer}
    wrong = [
        words
        for source, goal, words in arrows_between_units()
        if depth[source] >= depth[goal] and (source, goal) not in SIDEWAYS
    ]
    assert sorted(wrong) == []


def test_stages_import_nothing_of_each_other() -> None:
    for module in MODULES:
        if module.startswith("stages."):
            assert {t for t in ARROWS[module] if t.startswith("stages")} == set(), module


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_is_imported_by_its_owners_alone(package: str) -> None:
    users = {
        module
        for module, names in IMPORTED.items()
        if any(name == package or name.startswith(f"{package}.") for name in names)
    }
    owners = OWNERS[package]
    assert {m for m in users if not any(m == o or m.startswith(f"{o}.") for o in owners)} == set()


def test_what_is_allowed_is_used() -> None:
    """An exception that nothing needs any more is taken out of the list."""
    assert SIDEWAYS - {(source, goal) for source, goal, _ in arrows_between_units()} == set()
