"""Matmul kernels for decoding: which one reads the weights fastest.

For a few rows of inputs a step takes as long as reading the weights, so what counts is how a
kernel walks through memory. On a CPU the fastest is oneDNN's, on the weights as they lie: on an
AMD processor BLAS (MKL) was measured to take 1.2 to 3.7 times as long for 1 to 33 rows. For many
steps of several rows, and in bf16 of one, the weights are reordered once: there that takes half
the time. `int8` rounds each output's weights to 8 bits with a scale of its own, and each row's
inputs likewise, so that no row's scale depends on its neighbours.

Sharp edges: reordered and 8-bit weights are copies, valid until the model's weights change; the
operators behind them belong to PyTorch's compiler or, FBGEMM's, are deprecated, and are used only
where they exist.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import UserError

MatMul = Callable[[Tensor], Tensor]  # (..., K) inputs to (..., N) outputs
MakeMatMul = Callable[[Tensor, Tensor | None], MatMul]  # from an (N, K) weight and an (N,) bias
Precision = Literal["model", "bf16", "int8"]
Kernel = Literal["plain", "onednn", "reordered", "int8"]

TINY = torch.finfo(torch.float32).tiny
LAYOUT_ROWS = 32  # for which copies are laid out: fastest power of two at 3 to 16 rows
REORDER_FROM = 24  # steps after which reordering the weights has paid for itself
MAX_COPY_BYTES = 2 << 30  # beyond this, memory for a copy of the weights is dearer than time


def plain(weight: Tensor, bias: Tensor | None) -> MatMul:
    """`nn.Linear`'s kernel, on any device."""
    return lambda x: F.linear(x, weight, bias)


def onednn(weight: Tensor, bias: Tensor | None) -> MatMul:
    """oneDNN's kernel, on the weights as they lie."""
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: cast(Tensor, multiply(x, weight, bias, "none", [], ""))


def reordered(weight: Tensor, bias: Tensor | None) -> MatMul:
    """oneDNN's kernel on a copy of the weights in its own order."""
    return onednn(torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS), bias)


def int8(weight: Tensor, bias: Tensor | None) -> MatMul:
    """A kernel on weights rounded to 8 bits, one scale per output; about 1 % off."""
    largest = torch.maximum(weight.amax(1), -weight.amin(1))
    scale = largest.mul_(1 / 127).clamp_(min=TINY)
    rounded = (weight / scale[:, None]).round_().to(torch.int8)
    return (_int8_fbgemm if _has_fbgemm() else _int8_onednn)(rounded, scale, bias)


def _int8_fbgemm(weight: Tensor, scale: Tensor, bias: Tensor | None) -> MatMul:
    """One row takes a single call, and two thirds of the time of oneDNN's several."""
    # The type is deprecated; where PyTorch no longer has it, oneDNN's kernel is used.
    with warnings.catch_warnings(action="ignore"):
        typed = torch._make_per_channel_quantized_tensor(
            weight, scale.double(), torch.zeros(len(weight), dtype=torch.int64), 0
        )
    packed = torch.ops.quantized.linear_prepack(typed, None)
    one = torch.ops.quantized.linear_dynamic.default  # finds the inputs' scale itself
    several = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default

    def matmul(x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1]:
            y: Tensor = one(x, packed, False)
            return y if bias is None else y.add_(bias)
        largest = _largest(x)
        return _rescaled(several(x / largest, 1 / 127, 128, packed), largest, bias)

    return matmul


def _int8_onednn(weight: Tensor, scale: Tensor, bias: Tensor | None) -> MatMul:
    """Inputs become unsigned bytes around 128: the only kind that is fast on every processor."""
    scale = scale / 127  # and the inputs' 127th, once for all calls
    ordered = torch.ops.onednn.qlinear_prepack(weight, [LAYOUT_ROWS, weight.shape[1]])
    zero = torch.zeros(len(weight), dtype=torch.int64)
    middle = torch.tensor(128.5)  # the conversion to bytes cuts, so half a step rounds
    multiply = torch.ops.onednn.qlinear_pointwise.default

    def matmul(x: Tensor) -> Tensor:
        largest = _largest(x)
        bytes_ = torch.addcdiv(middle, x, largest, value=127).to(torch.uint8)
        y: Tensor = multiply(
            bytes_, 1.0, 128, ordered, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return _rescaled(y, largest, bias)

    return matmul


def _largest(rows: Tensor) -> Tensor:
    """Each row's largest magnitude, (..., 1), never 0."""
    return rows.abs().amax(-1, keepdim=True).clamp_(min=TINY)


def _rescaled(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale)


KERNELS: dict[Kernel, MakeMatMul] = {
    "plain": plain,
    "onednn": onednn,
    "reordered": reordered,
    "int8": int8,
}


def choose_kernel(model: nn.Module, rows: int, steps: int, precision: Precision) -> Kernel:
    """The fastest kernel for `steps` passes of `rows` rows over this model's weights.

    Raises:
        UserError: this machine, or these weights, have no `int8` kernel.
    """
    if precision == "int8":
        _require_int8(next(model.parameters()))
        return "int8"
    if not _computes_by_onednn(model):
        return "plain"
    pays = steps >= REORDER_FROM and (rows > 1 or next(model.parameters()).dtype == torch.bfloat16)
    return "reordered" if pays and can_copy(model, "reordered") else "onednn"


def can_copy(model: nn.Module, kernel: Literal["reordered", "int8"]) -> bool:
    """Whether the kernel runs here, and its copy of the weights may take the memory."""
    if not _computes_by_onednn(model):
        return False
    size = sum(w.nbytes for w in model.parameters())
    if kernel == "reordered":
        return size <= MAX_COPY_BYTES
    return (
        _is_all(model, torch.float32)
        and size // 4 <= MAX_COPY_BYTES
        and _has("onednn::qlinear_pointwise")
    )


def _computes_by_onednn(model: nn.Module) -> bool:
    """Whether oneDNN's kernel takes these weights, and is the quick one for them."""
    if not _has("mkldnn::_linear_pointwise"):
        return False
    return _is_all(model, torch.float32) or (
        _is_all(model, torch.bfloat16) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _is_all(model: nn.Module, dtype: torch.dtype) -> bool:
    return all(w.device.type == "cpu" and w.dtype == dtype for w in model.parameters())


def _has(operator: str) -> bool:
    namespace, name = operator.split("::")
    return torch.backends.mkldnn.is_available() and hasattr(getattr(torch.ops, namespace), name)


def _has_fbgemm() -> bool:
    """FBGEMM's kernel is right with VNNI only: without it, sums of two products overflow."""
    return (
        torch.backends.quantized.engine in ("x86", "fbgemm")
        and torch.cpu._is_vnni_supported()
        and hasattr(torch, "_make_per_channel_quantized_tensor")
    )


def _require_int8(weight: Tensor) -> None:
    if weight.device.type != "cpu":
        raise UserError("int8 decoding is for the CPU; on a GPU, bf16 is what pays")
    if weight.dtype != torch.float32:
        raise UserError(f"int8 decoding starts from float32 weights, not {weight.dtype}")
    if not _has("onednn::qlinear_pointwise"):
        raise UserError("this build of PyTorch has no int8 products (oneDNN); use bf16 or fp32")
