"""Any model of this repository by one name: `scratch`, a folder, a run, or `gpt2-SIZE`."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.model.gpt import GPT
    from pipeline.model.saved import Weights
    from pipeline.tracking.book import Entry

SCRATCH = Path("models/scratch")
RECORD = Path("reports/train_run.json")


def load_any(name: str, weights: Weights = "last", params: Path = Path("params.yaml")) -> GPT:
    """Load a model in evaluation mode, on the CPU.

    Args:
        name: `scratch`; `gpt2-124M` and so on; a folder such as models/scratch; or a training
            run's key or MLflow id, of which the first six characters are enough.
        weights: of a trained model, `last` or `best`.
        params: where the `gpt2` section says where GPT-2 comes from, if the file is there.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    from pipeline.model.saved import load_model

    if name == "scratch":
        return load_model(SCRATCH, weights)
    if name.startswith("gpt2-"):
        return _load_gpt2(name.removeprefix("gpt2-"), params)
    if Path(name).is_dir():
        return load_model(Path(name), weights)
    return _load_run(name, weights)


def _load_gpt2(size: str, params: Path) -> GPT:
    from pipeline.gpt2.load import load_gpt2
    from pipeline.params import Gpt2, Size, load_params

    if size not in get_args(Size):
        raise UserError(f"gpt2-{size}: GPT-2's sizes are {', '.join(get_args(Size))}")
    return load_gpt2(size, load_params(params).gpt2 if params.exists() else Gpt2())


def _load_run(name: str, weights: Weights) -> GPT:
    """The weights that a training run logged, from the workspace or DVC's cache."""
    from pipeline.model.saved import FILES, load_model
    from pipeline.tracking.weights import file_of_run

    entry = _find_run(name)
    if _is_current(entry):
        return load_model(SCRATCH, weights)
    with TemporaryDirectory() as folder:
        for file in ("config.json", FILES[weights]):
            target = Path(folder, FILES["last"] if file.endswith(".pth") else file)
            target.symlink_to(file_of_run(entry, file))
        return load_model(Path(folder), "last")


def _find_run(name: str) -> Entry:
    from pipeline.tracking.weights import runs_named

    found = runs_named(name)
    if not found:
        raise UserError(
            f"{name}: no such model; give scratch, gpt2-SIZE, a folder, or a run that "
            "`lossbook runs --json` lists"
        )
    if len(found) > 1:
        raise UserError(f"{name}: begins the names of {len(found)} runs; give more of it")
    return found[0]


def _is_current(entry: Entry) -> bool:
    """Whether models/scratch holds this run's weights."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("run") == entry.story.run
