"""Model and optimizer at step 0: new, or those of an earlier training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch.optim import Optimizer

from pipeline.distributed.base import load_optimizer
from pipeline.distributed.parallel import place_model
from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.runtime import Runtime
from pipeline.model.saved import OPTIMIZER, REMEDY
from pipeline.model.start import Start, config_of
from pipeline.params import Params
from pipeline.system.checksums import check_where_known
from pipeline.training.optim import build_optimizer
from pipeline.weights import Source, starting_model


def initial_state(
    params: Params, start: Start, source: Source | None, runtime: Runtime, world: World
) -> tuple[GPT, Optimizer]:
    """Model and optimizer on this rank's device; rank 0 reads them for all.

    Raises:
        UserError: the training cannot start from what the params name.
    """
    settings, config = params.train, config_of(params.model)
    full = starting_model(config, start, source, params.gpt2) if world.is_first else None
    model = place_model(world, full, config, runtime, sharded=world.shards(settings))
    optimizer = build_optimizer(model, settings)
    of_full, restored = optimizer, False
    if full is not None:
        of_full = optimizer if full is model else build_optimizer(full, settings)
        folder = source.folder if source is not None else None
        restored = restore_optimizer(of_full, folder, settings.init_optimizer)
    if world.broadcast(restored) and not world.is_alone:
        load_optimizer(world, model, optimizer, of_full.state_dict())
    return model, optimizer


def restore_optimizer(
    optimizer: Optimizer,
    folder: Path | None,
    wanted: Literal["auto", "fresh", "restored"] = "auto",
) -> bool:
    """Load the state that lies beside the first weights, where it is wanted and there.

    Raises:
        UserError: it must be restored and is not there, or it is not this model's.
    """
    path = folder / OPTIMIZER if folder is not None else None
    if path is None or not path.is_file():
        if wanted == "restored":
            where = "names no folder" if folder is None else f"leads to {folder}"
            raise UserError(
                f"train.init_optimizer: restored asked for, but train.init_from {where} with "
                f"{OPTIMIZER}"
            )
        return False
    if wanted == "fresh":
        return False
    check_where_known(path, REMEDY)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        rates = [group["lr"] for group in optimizer.param_groups]
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
    except Exception as error:  # torch raises many types for a damaged or foreign file
        raise UserError(f"{path}: not this model's optimizer state ({error})") from None
    for group, rate, decay in zip(optimizer.param_groups, rates, decays, strict=True):
        group.update(lr=rate, weight_decay=decay)  # what params.yaml says now
    return True
