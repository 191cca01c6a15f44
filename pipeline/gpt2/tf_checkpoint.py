"""Read OpenAI's TensorFlow checkpoints into our model: the one module that knows TensorFlow.

A checkpoint's index names every variable with its shape, its place in the data file and its
CRC-32C; TensorFlow checks the sum of each tensor that it reads, and of each block of the index.
The variables go by a table (`sizes`) into a model on the meta device, one at a time.

Sharp edges: importing TensorFlow takes 5 s and 0.4 GB, so this module does it only when it reads.
The `checkpoint` file is not looked at: it may name any path, and the prefix is always
`model.ckpt`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.gpt2.assemble import assemble, config_of
from pipeline.gpt2.release import DATA, HPARAMS, INDEX, PREFIX, read_hparams
from pipeline.gpt2.sizes import Hparams
from pipeline.model.gpt import GPT
from pipeline.model.tensors import check_finite
from pipeline.system.text import printable, quoted, shortened

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> GPT:
    """Build the model of the checkpoint in `folder`, on the CPU, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged; a tensor is missing, unknown, of another shape, not
            float32, not finite, or does not match its checksum.
    """
    hparams = read_hparams(folder / HPARAMS)
    variables = _Variables(folder, hparams)
    variables.check_data(hparams)
    names = hparams.variables
    return assemble(config_of(hparams), lambda name: variables.read(names[name]), dtype)


def verify_index(folder: Path) -> None:
    """Read the index and compare it with `hparams.json`; the data may not be there yet.

    Raises:
        UserError: it is damaged, or a tensor is missing, unknown, of another shape or not float32.
    """
    _Variables(folder, read_hparams(folder / HPARAMS))


def verify(folder: Path) -> None:
    """Read every tensor and keep none: what passes here, `load` reads.

    Raises:
        UserError: as `load` does.
    """
    hparams = read_hparams(folder / HPARAMS)
    variables = _Variables(folder, hparams)
    variables.check_data(hparams)
    for name in hparams.shapes:
        variables.read(name)


class _Variables:
    """The variables of a checkpoint that has all that `hparams` asks for and no other."""

    def __init__(self, folder: Path, hparams: Hparams) -> None:
        self.folder = folder
        self._local = threading.local()  # TensorFlow's readers are for one thread each
        if not (folder / INDEX).is_file():
            raise UserError(f"{folder / INDEX}: no such file")
        reader = self._reader()
        self._check(hparams, reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map())

    def check_data(self, hparams: Hparams) -> None:
        """Make sure that the data file is there and has the size that `hparams` asks for."""
        path = self.folder / DATA
        size = path.stat().st_size if path.is_file() else 0
        if size != hparams.data_bytes:
            raise UserError(
                f"{path}: has {size:,} bytes, {HPARAMS} asks for {hparams.data_bytes:,}"
            )

    def read(self, name: str) -> Tensor:
        """One variable, float32, without the leading 1 of `w`."""
        with _errors_named(f"{self.folder / DATA}: tensor {name}"):
            tensor = torch.utils.dlpack.from_dlpack(self._restore(name))
        return check_finite(self.folder / DATA, name, tensor[0] if tensor.dim() == 3 else tensor)

    def _restore(self, name: str) -> Any:
        """The operation behind restoring lets Python's other threads work; the reader does not."""
        tf = _tensorflow()
        prefix = str(self.folder / PREFIX)
        (tensor,) = tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[tf.float32]
        )
        return tensor

    def _reader(self) -> Any:
        if not hasattr(self._local, "reader"):
            with _errors_named(str(self.folder / INDEX)):
                self._local.reader = _tensorflow().train.load_checkpoint(str(self.folder / PREFIX))
        return self._local.reader

    def _check(self, hparams: Hparams, shapes: dict[str, list[int]], types: dict[str, Any]) -> None:
        path = self.folder / INDEX
        for name in sorted(hparams.shapes.keys() - shapes.keys()):
            raise UserError(f"{path}: tensor {name} is missing")
        for name in sorted(shapes.keys() - hparams.shapes.keys()):
            raise UserError(f"{path}: tensor {quoted(name)} is unknown to GPT-2")
        for name, shape in hparams.shapes.items():
            if tuple(shapes[name]) != shape:
                raise UserError(
                    f"{path}: tensor {name} has shape {shapes[name]}, {HPARAMS} asks for "
                    f"{list(shape)}"
                )
            if types[name].name != "float32":
                raise UserError(f"{path}: tensor {name} is {types[name].name}, not float32")


def _tensorflow() -> Any:
    """Import TensorFlow without the lines that it writes to the terminal on the way."""
    before = {key: os.environ.get(key) for key in QUIET}
    os.environ.update({key: value for key, value in QUIET.items() if before[key] is None})
    try:
        import tensorflow
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
    return tensorflow


@contextmanager
def _errors_named(what: str) -> Iterator[None]:
    """Turn TensorFlow's errors into one line that starts with `what`."""
    try:
        yield
    except (
        _tensorflow().errors.OpError,
        RuntimeError,
        ValueError,
        IndexError,
    ) as error:  # as its reader translates
        text = str(getattr(error, "message", error))
        damaged = any(word in text.lower() for word in ("checksum", "corrupt", "sstable"))
        reason = "it is damaged" if damaged else printable(shortened(text.split("\n")[0]), "")
        raise UserError(f"{what} cannot be read: {reason}") from None
