"""The pipeline in this process: the commands of dvc.yaml, one after the other, without DVC."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def run(stage: str) -> Result:
    """A stage in the working directory, `baseline@124M` as DVC names it; it must end well."""
    name, _, size = stage.partition("@")
    _, _, module, *arguments = STAGES[name]["cmd"].replace("${item.size}", size).split()
    done = CliRunner().invoke(import_module(module).main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done
