"""Compiled training: one graph for training and one for evaluation, wherever a training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from pipeline.errors import UserError
from pipeline.model import gpt, objective
from pipeline.model.loss import _compiled_softmax
from pipeline.model.objective import compiles
from pipeline.model.perplexity import total_nats
from pipeline.model.runtime import Runtime
from pipeline.params import Train
from pipeline.training.checkpointer import Checkpointer
from tests.helpers.trainers import CPU

# 5 validation windows in batches of 4, and 2 training windows: no evaluation's batch is whole.
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "eval_every": 3, "compile": True}
KILLED_AT = 5  # between two evaluations

Graph = tuple[str, tuple[torch.Size, ...]]  # its code, and the shapes of what goes in


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing that an earlier test has compiled."""
    torch._dynamo.reset()
    _compiled_softmax.cache_clear()
    counters.clear()
    yield
    torch._dynamo.reset()
    _compiled_softmax.cache_clear()


@pytest.fixture
def graphs(fresh: None, monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that the compiler is given, in order; they are run as they are."""
    given: list[Graph] = []

    def run_as_it_is(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        assert len(tensors) == len(inputs), "no size is an input: every one is fixed"
        given.append((graph.code, tuple(tensor.shape for tensor in tensors)))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=run_as_it_is))
    monkeypatch.setattr("pipeline.model.objective._missing_compiler", lambda device: None)
    return given


class Killed(Exception):
    pass


def trained(make_trainer, folder: Path, kill_at: int | None = None, **settings: Any):
    """Train from the latest checkpoint on; the trainer, at its end."""
    with Checkpointer(folder, notify=print) as checkpoints:
        trainer, memory = make_trainer(
            checkpoints=checkpoints, **{**SETTINGS, "checkpoint_every": 1, **settings}
        )
        found = checkpoints.latest(trainer.check)
        if found is not None:
            trainer.restore(found)
        on_step = memory.on_step

        def kill(step) -> None:
            on_step(step)
            if step.step == kill_at:
                checkpoints.wait()
                raise Killed

        memory.on_step = kill
        if kill_at is None:
            trainer.run()
        else:
            with pytest.raises(Killed):
                trainer.run()
    return trainer, found


@pytest.mark.parametrize(
    "kind", ["a CPU's", "a GPU's", pytest.param("recomputed", marks=pytest.mark.slow)]
)
def test_one_graph_for_training_and_one_for_evaluation_also_after_a_kill(
    make_trainer, graphs: list[Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    frugal: dict[str, Any] = {"activation_checkpointing": kind == "recomputed"}
    if kind == "a GPU's":
        monkeypatch.setattr(gpt, "NARROW_ON", {"cpu"})
        monkeypatch.setattr(objective, "WHOLE_ON", {"cpu"})
        frugal["runtime"] = Runtime(CPU.device, bf16=True)
    trained(make_trainer, tmp_path / "whole", **frugal)
    assert len(graphs) == 3, "of all blocks: evaluating, training; and of the loss"
    uninterrupted = set(graphs)

    trained(make_trainer, tmp_path / "killed", kill_at=KILLED_AT, **frugal)
    torch._dynamo.reset()  # as a new process
    _compiled_softmax.cache_clear()
    graphs.clear()
    _, found = trained(make_trainer, tmp_path / "killed", **frugal)
    assert found is not None
    assert len(graphs) == 3
    assert set(graphs) == uninterrupted
    assert not counters["graph_break"]


@pytest.mark.slow  # the compiler takes a minute
@pytest.mark.timeout(1200)
def test_a_killed_compiled_training_ends_with_the_same_bits(
    make_trainer, fresh: None, tmp_path: Path
) -> None:
    try:
        compiles(Train(compile=True), CPU.device)
    except UserError:
        pytest.skip("no C++ compiler here")
    whole, _ = trained(make_trainer, tmp_path / "whole")
    trained(make_trainer, tmp_path / "killed", kill_at=KILLED_AT)
    torch._dynamo.reset()
    _compiled_softmax.cache_clear()
    resumed, found = trained(make_trainer, tmp_path / "killed")
    assert found is not None
    assert resumed.history == whole.history
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("batch_size", [1, 2, 4, 99])
def test_padding_counts_for_nothing(make_trainer, batch_size: int) -> None:
    trainer, _ = make_trainer()
    windows = trainer.val_windows
    sizes: list[int] = []
    trainer.model.h[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    padded = total_nats(trainer.model, windows, batch_size, range(5), pads=True)
    assert set(sizes) == {batch_size}
    assert padded == pytest.approx(total_nats(trainer.model, windows, 5, range(5)), rel=1e-6)
