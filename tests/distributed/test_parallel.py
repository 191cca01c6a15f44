"""Two gloo processes train as one does: DDP, FSDP2, and what stands in for DDP in bf16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.distributed.launch import launch
from pipeline.distributed.world import World
from pipeline.training.events import Diverged
from pipeline.training.loop import Trainer
from tests.helpers.two_processes import CPU, StepLog, job_of, run_job_worker, train, train_by_two

STEPS = 50
# two micro-batches a step; 5 validation windows, which two cannot share equally
SETTINGS: dict[str, Any] = {
    "batch_size": 2,
    "gradient_accumulation": 2,
    "grad_clip": 1.0,
    "max_steps": STEPS,
    "eval_every": 10,
    "learning_rate": 3e-3,
    "precision": "fp32",
}


def case(model: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    return {"model": model or {}, "train": {**SETTINGS, **train}}


def test_two_processes_lose_what_one_does(tokens: Path) -> None:
    alone = train(case(), tokens)
    assert len(alone["losses"]) == STEPS
    assert alone["losses"][0] - alone["losses"][-1] > 1, "it learns something"
    for shared in train_by_two([case(), case(sharding="full")], tokens):
        assert shared["losses"] == pytest.approx(alone["losses"], abs=1e-4)
        assert shared["norms"] == pytest.approx(alone["norms"], rel=1e-3)
        assert shared["weights"] == pytest.approx(alone["weights"], rel=1e-3)
        assert shared["moments"] == pytest.approx(alone["moments"], rel=1e-2)
        for row, expected in zip(shared["history"], alone["history"], strict=True):
            assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_in_bf16_with_tied_weights_and_recomputed_activations(tokens: Path) -> None:
    tied = {"tie_weights": True}
    bf16 = {"precision": "bf16", "max_steps": 5}
    few = {"activation_checkpointing": True, "max_steps": 5}
    cases = [
        case(**bf16),
        case(tied, **bf16),
        case(tied, **bf16, sharding="full"),
        case(tied, **few),
        case(tied, **few, sharding="full"),
    ]
    for expected, shared in zip(
        [train(case, tokens) for case in cases], train_by_two(cases, tokens), strict=True
    ):
        assert shared["losses"] == pytest.approx(expected["losses"], rel=1e-3)


@pytest.mark.slow
def test_with_dropout_ranks_drop_out_differently_and_the_same_again(tokens: Path) -> None:
    dropping = [case({"dropout": 0.5}, max_steps=5)]
    (first,), (again,) = (train_by_two(dropping, tokens) for _ in range(2))
    (fewer,) = train_by_two([case({"dropout": 0.5}, max_steps=4)], tokens)
    assert first["losses"] == again["losses"]
    assert first["losses"][:4] == fewer["losses"]
    assert first["losses"] != train(dropping[0], tokens)["losses"]


@pytest.mark.slow
def test_a_loss_that_diverges_on_one_rank_ends_all_in_the_same_words(tokens: Path) -> None:
    world, settings = World.on_one_machine(2), case(gradient_accumulation=1)

    def lead() -> None:
        with launch(world, CPU, run_job_worker, settings, tokens):
            observer = StepLog()
            trainer = job_of(settings, tokens, world).trainer(observer)
            observer.on_step = lambda step: poison(trainer) if step.step == 3 else None
            trainer.run()

    with pytest.raises(Diverged, match="the training loss became nan after step 3"):
        lead()


def poison(trainer: Trainer) -> None:
    trainer.model.ln_f.weight.data.fill_(math.nan)
