"""The optimizer: weight decay on matrices only.

An optimizer is a function that builds it, and an entry in `OPTIMIZERS`, whose keys are what
`train.optimizer` may be. params.py reads them, so this module imports nothing of the project, and
torch only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Groups = list[dict[str, Any]]  # of parameters, as `Optimizer` takes them
AVERAGE = "average"  # of a parameter, in the optimizer's state


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
    """The optimizer that the settings name, of a GPT.

    With `ema_decay` it keeps an average of each parameter too (`average`), and takes a step into
    it by its groups' `ema_decay`.
    """
    optimizer = OPTIMIZERS[settings.optimizer](model, settings)
    if settings.ema_decay is not None:
        for group in optimizer.param_groups:
            group["ema_decay"] = settings.ema_decay
        optimizer.register_step_post_hook(lambda *_: advance_average(optimizer))
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


def _adamw(groups: Groups, settings: Settings) -> Optimizer:
    import torch

    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True
    )


def muon(model: nn.Module, settings: Settings) -> Optimizer:
    """PyTorch's Muon for the blocks' matrices; AdamW for embeddings, head, biases and norms.

    Queries', keys' and values' matrices lie in one, (3C, C), and are orthogonalised each. An
    update has the size of AdamW's (https://arxiv.org/abs/2502.16982, section 2.2), so learning
    rate and weight decay are the same for both.
    """
    import torch

    class Muon(torch.optim.Muon):
        """Takes a group's matrices in equal `parts`; the state is the whole matrix's."""

        def _init_group(self, group: Any, *lists: list[Tensor]) -> bool:
            has_complex = super()._init_group(group, *lists)
            for tensors in lists:  # parameters, gradients, momenta
                tensors[:] = [part for whole in tensors for part in whole.chunk(group["parts"])]
            return has_complex

    blocks = {n: p for n, p in model.named_parameters() if n.startswith("h.") and p.dim() == 2}
    fused = [p for name, p in blocks.items() if name.endswith(".c_attn.weight")]
    single = [p for name, p in blocks.items() if not name.endswith(".c_attn.weight")]
    others = [p for name, p in model.named_parameters() if name not in blocks]
    return combined(
        Muon(
            [{"params": single, "parts": 1}, {"params": fused, "parts": 3}],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        _adamw(groups_by_decay(others, settings), settings),
    )


def combined(*optimizers: Optimizer) -> Optimizer:
    """Optimizers of different parameters as one: their groups in a row, a state by parameter."""
    from torch.optim import Optimizer

    counts = [len(each.param_groups) for each in optimizers]

    class Combined(Optimizer):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            groups = iter(self.param_groups)
            for optimizer, count in zip(optimizers, counts, strict=True):
                # each time, since `load_state_dict` replaces both
                optimizer.param_groups = list(islice(groups, count))
                optimizer.state = self.state
                optimizer.step()

    return Combined([group for each in optimizers for group in each.param_groups], {})


OPTIMIZERS: dict[str, Callable[[nn.Module, Settings], Optimizer]] = {"adamw": adamw, "muon": muon}


def begin_average(optimizer: Optimizer) -> None:
    """Where a parameter has no average yet, its value is the first."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if AVERAGE not in optimizer.state[weight]:
                optimizer.state[weight][AVERAGE] = weight.detach().clone()


def advance_average(optimizer: Optimizer) -> None:
    """Take the parameters as they are now into their averages."""
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    begin_average(optimizer)
    for group in optimizer.param_groups:
        weights = group["params"]
        averages = [optimizer.state[weight][AVERAGE] for weight in weights]
        get_ema_multi_avg_fn(group["ema_decay"])(averages, weights, None)
