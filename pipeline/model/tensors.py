"""Tensors from files, which are checked before anything computes with them.

A file may be damaged, of another model or another program, or made to do harm. No code in it is
run, no memory is taken that the file does not fill, and what is wrong is one line that names the
file and the tensor.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.system.text import quoted

WEIGHTS = (torch.float32, torch.bfloat16, torch.float16)  # dtypes that models compute in


def load_pth(path: Path, *, mmap: bool = False) -> Any:
    """What `torch.save` wrote, its tensors on the CPU; `checked` must see them before use.

    Args:
        mmap: map the tensors into memory, copied where they are written to.

    Raises:
        UserError: the file is missing, damaged, compressed or holds what is no data.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `dvc repro train` writes it")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile  # a few kilobytes could unfold to any size
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(f"{path}: not a readable state dict ({type(error).__name__})") from None


def checked(
    path: Path,
    name: str,
    value: Any,
    shape: Sequence[int],
    dtypes: Collection[torch.dtype],
    asked_by: str,
) -> Tensor:
    """The tensor `name` of the file at `path`, contiguous: of this shape, one of `dtypes`, finite.

    Raises:
        UserError: it is not, or is no dense tensor in the file's own memory.
    """
    tensor = plain(f"{path}: tensor {name}", value, shape, dtypes, asked_by)
    return check_finite(path, name, tensor)


def plain(
    where: str, value: Any, shape: Sequence[int], dtypes: Collection[torch.dtype], asked_by: str
) -> Tensor:
    """The tensor, contiguous: of this shape and one of `dtypes`; `where` names it in errors.

    Raises:
        UserError: it is not, or is no dense tensor in the file's own memory.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{where} is {quoted(value, 40)}, no tensor")
    dense = value.layout == torch.strided and not (value.is_nested or value.is_quantized)
    if not dense or value.device.type != "cpu" or value.is_neg():
        raise UserError(f"{where} is not a dense tensor")
    if tuple(value.shape) != tuple(shape):
        raise UserError(
            f"{where} has shape {quoted(tuple(value.shape))}, {asked_by} asks for {tuple(shape)}"
        )
    if value.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise UserError(f"{where} is {str(value.dtype).removeprefix('torch.')}, not {wanted}")
    if value.nbytes > value.untyped_storage().nbytes():
        raise UserError(f"{where} repeats its numbers in place of storing them")
    return value.detach().contiguous()


def check_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return `tensor`, which the file at `path` calls `name`, if it holds no NaN or infinity.

    Raises:
        UserError: it does; names the first such place.
    """
    # The sum is not finite where an element is not, and costs a tenth of asking each.
    if tensor.sum().isfinite() or tensor.isfinite().all():
        return tensor
    place = tuple(torch.nonzero(~tensor.isfinite())[0].tolist())
    raise UserError(f"{path}: tensor {name} holds {tensor[place].item()} at {list(place)}")
