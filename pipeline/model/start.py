"""Where a training starts from: fresh weights, a run, a model's folder, or OpenAI's GPT-2."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig, initialise, unfilled
from pipeline.model.runtime import derive_seed
from pipeline.model.saved import FILES, load_model
from pipeline.params import Gpt2, Model
from pipeline.system.files import read_json, write_json

OPTIMIZER = "optimizer.pth"
START = "start.json"
GPT2 = "gpt2-"
RUN = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")  # Lossbook's key, MLflow's id

FindRun = Callable[[str], Path]  # a folder with the weights that a run left


class Start(BaseModel):
    """What it takes to build the weights of step 0 again, for the untrained row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    init_from: str
    init: Literal["pytorch", "gpt2"]
    seed: int

    def save(self, folder: Path) -> None:
        write_json(folder / START, self.model_dump())

    @classmethod
    def load(cls, folder: Path) -> Start:
        return cls.model_validate(read_json(folder / START))


def config_of(section: Model) -> GPTConfig:
    """The architecture that `params.yaml` asks for."""
    return GPTConfig(**section.model_dump(exclude={"init"}))


def starting_folder(init_from: str, find_run: FindRun) -> Path | None:
    """The folder that `train.init_from` names, or that its run left; None for other starts."""
    if init_from == "scratch" or init_from.startswith(GPT2):
        return None
    folder = Path(init_from)
    is_run = RUN.fullmatch(init_from) is not None and not folder.is_dir()
    return find_run(init_from) if is_run else folder


def starting_model(
    config: GPTConfig, start: Start, gpt2: Gpt2 | None = None, folder: Path | None = None
) -> GPT:
    """The weights of step 0.

    Args:
        gpt2: where OpenAI's are, if they are asked for.
        folder: `starting_folder`'s answer; by default the folder that `start` names.

    Raises:
        UserError: `train.init_from` names nothing that can be read, or another architecture.
    """
    if start.init_from == "scratch":
        model = unfilled(config).to_empty(device="cpu")
        initialise(model, start.init, derive_seed(start.seed, "weights"))
        return model
    if start.init_from.startswith(GPT2):
        from pipeline.gpt2.load import load_gpt2

        return _adapted(load_gpt2(start.init_from.removeprefix(GPT2), gpt2), config, start)
    folder = folder or Path(start.init_from)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"train.init_from: {start.init_from} is neither `scratch`, nor a run's id, nor "
            "gpt2-124M, gpt2-355M, gpt2-774M or gpt2-1558M, nor a folder with config.json and "
            "model.pth"
        )
    return _adapted(load_model(folder, "last"), config, start)


def starting_files(folder: Path | None) -> list[Path]:
    """The files of the folder that a training starts from; none where it starts elsewhere."""
    if folder is None:
        return []
    return [path for name in (FILES["last"], OPTIMIZER) if (path := folder / name).is_file()]


def starting_optimizer(
    optimizer: torch.optim.Optimizer,
    folder: Path | None,
    wanted: Literal["auto", "fresh", "restored"] = "auto",
) -> bool:
    """Load the optimizer's state from `starting_folder`'s, where it is wanted and there.

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


def _adapted(model: GPT, config: GPTConfig, start: Start) -> GPT:
    """`model` under this run's dropout and, where it is shorter, context length."""
    given, wanted = asdict(model.config), asdict(config)
    free = {"dropout"}
    if wanted["context_length"] <= given["context_length"]:
        free.add("context_length")
    differing = [
        f"model.{key} is {wanted[key]!r} and would have to be {value!r}"
        for key, value in given.items()
        if key not in free and wanted[key] != value
    ]
    if differing:
        raise UserError(
            f"train.init_from: {start.init_from} fits no such model: " + _and(differing)
        )
    state: dict[str, Any] = model.state_dict()
    state["wpe.weight"] = state["wpe.weight"][: config.context_length]
    adapted = unfilled(config)
    # copies: weights that were memory-mapped must not be written to
    adapted.load_state_dict({name: t.clone() for name, t in state.items()}, assign=True)
    return adapted


def _and(parts: list[str]) -> str:
    return ", ".join(parts)
