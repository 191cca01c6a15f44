"""A model's folder: `config.json`, and state dicts that `torch.load(weights_only=True)` reads.

`model.pth` holds the last weights, `best.pth` those of the lowest validation loss. A training
leaves digests of them (`system.checksums`), which are checked before weights are read.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig, meta_model
from pipeline.system.checksums import check_where_known
from pipeline.system.files import read_json, write_json, written_aside

Weights = Literal["best", "last"]
FILES: dict[Weights, str] = {"best": "best.pth", "last": "model.pth"}
OPTIMIZER = "optimizer.pth"
REMEDY = "`dvc checkout` brings back what DVC keeps, `dvc repro -f train` trains again"


def save_config(folder: Path, config: GPTConfig) -> None:
    write_json(folder / "config.json", asdict(config))


def save_weights(folder: Path, state: dict[str, torch.Tensor], which: Weights) -> None:
    """Write a state dict, its tensors on the CPU, whole or not at all, as `save_whole` does."""
    save_whole(folder / FILES[which], {name: t.cpu() for name, t in state.items()})


def save_whole(path: Path, value: object) -> None:
    """`torch.save`, aside and renamed; equal values give equal bytes.

    It writes to a file and not to a path, whose name torch would put into the archive.
    """
    with written_aside(path) as aside, open(aside, "wb") as file:
        save_into(file, _pooled(value, {}))


def save_into(file: Any, value: object) -> None:
    """`torch.save` without its checksums, which take nine tenths of its time.

    `torch.load` does not look at them; a program that unzips the file may complain.
    """
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(value, file)
    finally:
        torch.serialization.set_crc32_options(before)


def _pooled(value: Any, pool: dict[tuple[type, str], Any]) -> Any:
    """The same value, of equal scalars and texts one object each.

    Pickle writes an object once and refers to it afterwards: which equal values are the same
    object, a matter of where they came from, would be in the file.
    """
    if isinstance(value, dict):
        return {_pooled(key, pool): _pooled(inner, pool) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_pooled(inner, pool) for inner in value)
    if isinstance(value, str | int | float):
        return pool.setdefault((type(value), repr(value)), value)
    return value


def load_config(folder: Path) -> GPTConfig:
    """Read `config.json`.

    Raises:
        UserError: it is missing, or its keys are not GPTConfig's.
    """
    path = folder / "config.json"
    check_where_known(path, REMEDY)
    values = read_json(path)
    known = {field.name for field in fields(GPTConfig)}
    if not isinstance(values, dict) or set(values) != known:
        raise UserError(f"{path}: must hold exactly the keys {', '.join(sorted(known))}")
    return GPTConfig(**values)


def load_model(folder: Path, which: Weights = "last") -> GPT:
    """Build the folder's model with its weights, in evaluation mode, on the CPU.

    The weights are memory-mapped into a model built on the meta device, so no second copy of
    them is ever held.

    Raises:
        UserError: a file is missing or damaged, or a tensor is missing, unknown or misshapen.
    """
    config = load_config(folder)
    path = folder / FILES[which]
    check_where_known(path, REMEDY)
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro train` writes it") from None
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(f"{path}: not a readable state dict ({type(error).__name__})") from None
    return model_of(config, state, path)


def model_of(config: GPTConfig, state: dict[str, torch.Tensor], path: Path) -> GPT:
    """The model that these very tensors are the weights of, in evaluation mode.

    Args:
        path: where they come from, for errors.

    Raises:
        UserError: names the first tensor that is missing, unknown or misshapen.
    """
    model = meta_model(config)
    wanted = model.state_dict()
    for name in wanted.keys() - state.keys():
        raise UserError(f"{path}: tensor {name} is missing")
    for name in state.keys() - wanted.keys():
        raise UserError(f"{path}: tensor {name} is unknown to this model")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{path}: tensor {name} has shape {tuple(state[name].shape)}, "
                f"config.json asks for {tuple(tensor.shape)}"
            )
    model.load_state_dict(state, assign=True)
    return model.eval()
