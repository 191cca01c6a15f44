"""The optimizer: weight decay on matrices only.

An optimizer is a function that builds it, and an entry in `OPTIMIZERS`, whose keys are what
`train.optimizer` may be. params.py reads them, so this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Groups = list[dict[str, Any]]  # of parameters, as `Optimizer` takes them


class Settings(Protocol):
    """What optimizers read of the `train` section."""

    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def ema_decay(self) -> float | None: ...


def build_optimizer(model: nn.Module, settings: Settings) -> Optimizer:
    """The optimizer that the settings name, of a GPT; it keeps their average of the weights too."""
    optimizer = OPTIMIZERS[settings.optimizer](model, settings)
    if settings.ema_decay is not None:
        from pipeline.training.average import keep_average

        keep_average(optimizer, settings.ema_decay)
    return optimizer


def groups_by_decay(parameters: Iterable[nn.Parameter], settings: Settings) -> Groups:
    """Matrices, which decay; biases and layer norms, which do not."""
    parameters = list(parameters)
    return [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, settings: Settings) -> Optimizer:
    """PyTorch's fused AdamW."""
    return _adamw(groups_by_decay(model.parameters(), settings), settings)


def muon(model: nn.Module, settings: Settings) -> Optimizer:
    """PyTorch's Muon for the blocks' matrices; AdamW for embeddings, head, biases and norms.

    Queries', keys' and values' matrices lie in one, (3C, C), and are orthogonalised each. An
    update has the size of AdamW's (https://arxiv.org/abs/2502.16982, section 2.2), so learning
    rate and weight decay are the same for both.
    """
    from pipeline.training.muon import Combined, Muon

    blocks = {n: p for n, p in model.named_parameters() if n.startswith("h.") and p.dim() == 2}
    fused = [p for name, p in blocks.items() if name.endswith(".c_attn.weight")]
    single = [p for name, p in blocks.items() if not name.endswith(".c_attn.weight")]
    others = [p for name, p in model.named_parameters() if name not in blocks]
    return Combined(
        Muon(
            [{"params": single, "parts": 1}, {"params": fused, "parts": 3}],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        _adamw(groups_by_decay(others, settings), settings),
    )


def _adamw(groups: Groups, settings: Settings) -> Optimizer:
    import torch

    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True
    )


OPTIMIZERS: dict[str, Callable[[nn.Module, Settings], Optimizer]] = {"adamw": adamw, "muon": muon}
