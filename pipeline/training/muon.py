"""PyTorch's Muon, for fused matrices too, and as one optimizer with another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` whose groups say of how many `parts` their matrices are.

    The parts, of equal rows, are orthogonalised one by one. The state is the whole matrix's.
    """

    def _init_group(self, group: Any, *lists: list[Tensor]) -> bool:
        """The step's parameters, gradients and momenta: of each part, as views."""
        has_complex = super()._init_group(group, *lists)
        for tensors in lists:
            tensors[:] = [part for whole in tensors for part in whole.chunk(group["parts"])]
        return has_complex


class Combined(Optimizer):
    """Several optimizers as one: their groups in a row, and a state by parameter."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self._optimizers = [(each, len(each.param_groups)) for each in optimizers]
        super().__init__([group for each in optimizers for group in each.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups: Iterator[dict[str, Any]] = iter(self.param_groups)
        for optimizer, count in self._optimizers:
            # given anew each time, since `load_state_dict` replaces both
            optimizer.param_groups = list(islice(groups, count))
            optimizer.state = self.state
            optimizer.step()
