"""Model and optimizer at step 0: new, or those of an earlier training."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict
from torch import Tensor
from torch.optim import Optimizer

from pipeline.distributed.base import load_optimizer
from pipeline.distributed.parallel import place_model
from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.runtime import Runtime
from pipeline.model.saved import OPTIMIZER, REMEDY
from pipeline.model.start import Start, config_of
from pipeline.model.tensors import check_finite, load_pth
from pipeline.params import Params, Train
from pipeline.system.checksums import check_where_known
from pipeline.system.records import Record
from pipeline.training.optim import begin_average, build_optimizer
from pipeline.training.tensor_checks import checked_moments
from pipeline.weights import Source, starting_model

NEVER_NEGATIVE = {"step", "exp_avg_sq"}


def initial_state(
    params: Params, start: Start, source: Source | None, runtime: Runtime, world: World
) -> tuple[GPT, Optimizer]:
    """Model and optimizer on this rank's device; rank 0 reads them for all.

    Raises:
        UserError: the training cannot start from what the params name.
    """
    settings, config = params.train, config_of(params.model)
    full = starting_model(config, start, source, params.gpt2) if world.is_first else None
    replicas = settings.replicas if world.shards(settings) else None
    model = place_model(world, full, config, runtime, replicas=replicas)
    optimizer = build_optimizer(model, settings)
    of_full, restored = optimizer, False
    if full is not None:
        of_full = optimizer if full is model else build_optimizer(full, settings)
        folder = source.folder if source is not None else None
        restored = restore_optimizer(of_full, folder, settings)
    if world.broadcast(restored) and not world.is_alone:
        load_optimizer(world, model, optimizer, of_full.state_dict())
    return model, optimizer


def restore_optimizer(optimizer: Optimizer, folder: Path | None, settings: Train) -> bool:
    """Load the moments that lie beside the first weights, where they are wanted and there.

    Learning rate and all else that the optimizer's groups hold stay what the settings say.

    Raises:
        UserError: they must be restored and are not there, or are not this model's.
    """
    path = folder / OPTIMIZER if folder is not None else None
    if path is None or not path.is_file():
        if settings.init_optimizer == "restored":
            where = "names no folder" if folder is None else f"leads to {folder}"
            raise UserError(
                f"train.init_optimizer: restored asked for, but train.init_from {where} with "
                f"{OPTIMIZER}"
            )
        return False
    if settings.init_optimizer == "fresh":
        return False
    check_where_known(path, REMEDY)
    groups = optimizer.state_dict()["param_groups"]
    without_average = settings.model_copy(update={"ema_decay": None})
    saved = OptimizerFile.from_value(load_pth(path), f"{path}: not an optimizer's state")
    if [group.params for group in saved.param_groups] != [group["params"] for group in groups]:
        raise UserError(
            f"{path}: not this model's optimizer state with train.optimizer {settings.optimizer}: "
            "it groups other parameters; set train.init_optimizer to fresh"
        )
    try:
        state = checked_moments({"state": saved.state}, optimizer, without_average)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for number, tensors in state.items():
        for name, tensor in tensors.items():
            check_finite(path, f"state.{number}.{name}", tensor)
            if name in NEVER_NEGATIVE and tensor.min() < 0:
                raise UserError(f"{path}: tensor state.{number}.{name} has a number below 0")
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if settings.ema_decay is not None:
        begin_average(optimizer)  # which is of one training's weights
    return True


class _Group(Record):
    params: list[int]


class OptimizerFile(Record):
    """What `Optimizer.state_dict` gave: each parameter's moments, by its number."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    state: dict[int, dict[str, Tensor]]
    param_groups: list[_Group]
