"""A model's folder: `config.json`, and state dicts that `torch.load(weights_only=True)` reads.

`model.pth` holds the last weights, `best.pth` those of the lowest validation loss, and `ema.pth`,
where `train.ema_decay` is set, the averaged ones. A training leaves digests of them
(`system.checksums`), which are checked before weights are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig, meta_model
from pipeline.model.tensors import WEIGHTS, checked, load_pth
from pipeline.system.checksums import check_where_known
from pipeline.system.files import write_json, written_aside
from pipeline.system.records import Blocks, Dimension, Record
from pipeline.system.text import quoted

Weights = Literal["best", "last", "ema"]
FILES: dict[Weights, str] = {"best": "best.pth", "last": "model.pth", "ema": "ema.pth"}
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

    Raises:
        Exception: what `file.write` raised, in place of torch's own error about it.
    """
    noted = _Noted(file)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(value, noted)  # type: ignore[arg-type]  # all that it calls is here
    except RuntimeError:
        if noted.error is None:
            raise
        raise noted.error from None
    finally:
        torch.serialization.set_crc32_options(before)


class _Noted:
    """A file that notes what its writes raise."""

    def __init__(self, file: Any) -> None:
        self._file, self.flush = file, file.flush
        self.error: Exception | None = None

    def write(self, data: memoryview) -> Any:
        try:
            return self._file.write(data)
        except Exception as error:
            self.error = error
            raise


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


class ConfigFile(Record):
    """`config.json`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    n_layer: Blocks
    n_head: Dimension
    n_embd: Dimension
    context_length: Dimension
    vocab_size: Dimension
    dropout: float = Field(ge=0.0, lt=1.0)
    qkv_bias: bool
    tie_weights: bool

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> ConfigFile:
        if self.n_embd % self.n_head:
            raise PydanticCustomError(
                "n_head",
                "n_embd {c} is no multiple of n_head {h}",
                {"c": self.n_embd, "h": self.n_head},
            )
        return self


def load_config(folder: Path) -> GPTConfig:
    """Read `config.json`.

    Raises:
        UserError: it is missing, its keys are not GPTConfig's, or a value cannot be right.
    """
    path = folder / "config.json"
    check_where_known(path, REMEDY)
    return GPTConfig(**ConfigFile.read(path, remedy="").model_dump())


def load_model(folder: Path, which: Weights = "last") -> GPT:
    """Build the folder's model with its weights, in evaluation mode, on the CPU.

    The weights are memory-mapped into a model built on the meta device, so no second copy of
    them is ever held.

    Raises:
        UserError: as `load_config`, `load_pth` and `model_of`.
    """
    path = folder / FILES[which]
    if which == "ema" and not path.exists():
        raise UserError(f"{path}: no such file; a training with train.ema_decay writes it")
    check_where_known(path, REMEDY)
    return model_of(load_config(folder), load_pth(path, mmap=True), path)


def model_of(config: GPTConfig, state: Any, path: Path) -> GPT:
    """The model that these very tensors are the weights of, in evaluation mode.

    Args:
        path: where they come from, for errors.

    Raises:
        UserError: names the first tensor that is missing, unknown, misshapen, not finite or of
            another dtype than the others.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path}: must hold tensors by name, not {quoted(state, 40)}")
    weights: dict[str, Tensor] = {}
    dtypes: Collection[torch.dtype] = WEIGHTS
    for name, shape in parameter_shapes(config):
        if name not in state:
            raise UserError(f"{path}: tensor {name} is missing")
        weights[name] = checked(path, name, state[name], shape, dtypes, "config.json")
        dtypes = (weights[name].dtype,)
    for name in state.keys() - weights.keys():
        raise UserError(f"{path}: tensor {quoted(name)} is unknown to this model")
    model = meta_model(config)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def parameter_shapes(config: GPTConfig) -> Iterator[tuple[str, torch.Size]]:
    """Each parameter's name and shape, without building blocks that a file may ask for and lack."""
    one_block = meta_model(replace(config, n_layer=1)).state_dict()
    blocks = {name: tensor for name, tensor in one_block.items() if name.startswith("h.0.")}
    for name, tensor in one_block.items():
        if name not in blocks:
            yield name, tensor.shape
    for layer in range(config.n_layer):
        for name, tensor in blocks.items():
            yield name.replace("h.0.", f"h.{layer}.", 1), tensor.shape
