"""The weights of step 0: random, or another model's under this run's settings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig, initialise, meta_model
from pipeline.model.runtime import derive_seed
from pipeline.model.saved import REMEDY
from pipeline.params import Model
from pipeline.system.checksums import check_where_known
from pipeline.system.records import Record

START = "start.json"


class Start(Record):
    """What it takes to build the weights of step 0 again, for the untrained row."""

    init_from: str
    init: Literal["pytorch", "gpt2"]
    seed: int

    def save(self, folder: Path) -> None:
        self.write(folder / START)

    @classmethod
    def load(cls, folder: Path) -> Start:
        check_where_known(folder / START, REMEDY)
        return cls.read(folder / START)


def config_of(section: Model) -> GPTConfig:
    """The architecture that `params.yaml` asks for."""
    return GPTConfig(**section.model_dump(exclude={"init"}))


def random_model(config: GPTConfig, start: Start) -> GPT:
    """A model of random weights, drawn from the run's seed."""
    model = meta_model(config).to_empty(device="cpu")
    initialise(model, start.init, derive_seed(start.seed, "weights"))
    return model


def adapted_model(model: GPT, config: GPTConfig, start: Start) -> GPT:
    """A copy of `model` under this run's dropout and, where it is shorter, context length.

    Raises:
        UserError: as `check_architecture`.
    """
    check_architecture(model.config, config, start.init_from)
    state: dict[str, Any] = model.state_dict()
    state["wpe.weight"] = state["wpe.weight"][: config.context_length]
    adapted = meta_model(config)
    # copies: weights that were memory-mapped must not be written to; and training is in float32
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}
    adapted.load_state_dict(copies, assign=True)
    return adapted


def check_architecture(of_start: GPTConfig, config: GPTConfig, init_from: str) -> None:
    """Make sure that weights of one architecture can start a training of the other.

    Raises:
        UserError: they differ in more than dropout and a shorter context; names every key.
    """
    given, wanted = asdict(of_start), asdict(config)
    free = {"dropout"}
    if wanted["context_length"] <= given["context_length"]:
        free.add("context_length")
    differing = [
        f"model.{key} is {wanted[key]!r} and would have to be {value!r}"
        for key, value in given.items()
        if key not in free and wanted[key] != value
    ]
    if differing:
        raise UserError(f"train.init_from: {init_from} fits no such model: {', '.join(differing)}")
