"""Two gloo processes train as one does: DDP, FSDP2, and what stands in for DDP in bf16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.distributed.base import Parallel
from pipeline.distributed.launch import launch
from pipeline.distributed.rendezvous import RankLost
from pipeline.distributed.world import ALONE, World
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.objective import Objective
from pipeline.model.runtime import derive_seed
from pipeline.model.saved import load_config, load_model
from pipeline.params import Train
from pipeline.training.events import Diverged
from pipeline.training.loop import Trainer
from tests.helpers.processes import (
    CPU,
    StepLog,
    go_on_by,
    job_of,
    run_job_worker,
    train,
    train_by,
    train_until_killed,
)

STEPS = 30
# The rate is so high that the validation loss falls and then rises: where an evaluation does not
# improve, no checkpoint's weights are gathered after it. 5 validation windows, which two processes
# cannot share equally.
SETTINGS: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": STEPS,
    "eval_every": 1,
    "learning_rate": 0.05,
    "precision": "fp32",
}


def case(model: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    return {"model": model or {}, "train": {**SETTINGS, **train}}


def assert_equal(shared: dict[str, Any], alone: dict[str, Any]) -> None:
    assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert shared["norms"] == pytest.approx(alone["norms"], rel=1e-3)
    assert shared["weights"] == pytest.approx(alone["weights"], rel=1e-3)
    assert shared["moments"] == pytest.approx(alone["moments"], rel=1e-2)
    assert shared["average"] == pytest.approx(alone["average"], rel=1e-3)
    assert shared["averages"] == pytest.approx(alone["averages"], rel=1e-4)
    for of_rank in shared["gradients"]:
        assert of_rank == pytest.approx(alone["gradients"][0], rel=1e-2)
    for row, expected in zip(shared["history"], alone["history"], strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def assert_rises_again(trained: dict[str, Any]) -> list[int]:
    """The steps whose evaluations are worse than an earlier one."""
    losses = [row["val_loss"] for row in trained["history"]]
    assert losses[0] - min(losses) > 1, "it learns something"
    worse = [
        row["step"]
        for at, row in enumerate(trained["history"])
        if at and row["val_loss"] > min(losses[:at])
    ]
    assert len(worse) >= 3, "evaluations worsen too"
    return worse


def test_two_processes_lose_what_one_does(tokens: Path) -> None:
    averages = {"ema_decay": 0.9}
    alone = train(case(**averages), tokens)
    assert_rises_again(alone)
    assert len(alone["average"]) == len(alone["weights"])
    for shared in train_by(2, [case(**averages), case(**averages, sharding="full")], tokens):
        assert_equal(shared, alone)


def test_the_norm_of_a_long_gradient_is_right() -> None:
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=64, context_length=8))
    parallel = Parallel(ALONE, model, Objective(model, Train(), CPU))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    wide = torch.cat([p.grad.flatten().double() for p in model.parameters()])
    assert parallel.gradient_norm().item() == pytest.approx(wide.norm().item(), rel=1e-6)


TIED = {"tie_weights": True, "init": "gpt2"}
EVERYTHING = {"gradient_accumulation": 2, "grad_clip": 0.5, "activation_checkpointing": True}
CASES = (
    case(gradient_accumulation=2),
    case(grad_clip=0.5),
    case(activation_checkpointing=True),
    case(TIED, **EVERYTHING),
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("processes", "sharing"),
    [
        *((processes, {"sharding": each}) for processes in (2, 4) for each in ("none", "full")),
        (4, {"sharding": "full", "replicas": 2}),
    ],
)
def test_whatever_the_settings(tokens: Path, processes: int, sharing: dict[str, Any]) -> None:
    """A batch of 4 is a window for each of four processes; the loss is that of one process."""
    everyone = [train(each, tokens) for each in CASES]
    cases = [{**each, "train": {**each["train"], **sharing}} for each in CASES]
    for shared, alone in zip(train_by(processes, cases, tokens), everyone, strict=True):
        assert_rises_again(alone)
        assert_equal(shared, alone)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, {"sharding": "none"}), (4, {"sharding": "full"})),
        ((4, {"sharding": "full"}), (2, {"sharding": "none"})),
        ((4, {"sharding": "full", "replicas": 2}), (1, {})),
    ],
)
def test_a_rank_is_killed_and_another_number_goes_on_in_another_way(
    tokens: Path,
    tmp_path: Path,
    before: tuple[int, dict[str, Any]],
    after: tuple[int, dict[str, Any]],
) -> None:
    """Between two evaluations, both of them worse than one before."""
    settings = {"eval_every": 2, "grad_clip": 0.5, "ema_decay": 0.9}
    alone = train(case(**settings), tokens)
    worse = assert_rises_again(alone)
    last = next(step for step in worse if step + 2 in worse)
    (processes, sharing), (others, other_sharing) = before, after
    folder = tmp_path / "checkpoints"
    first = case(**settings, **sharing)
    with pytest.raises(RankLost, match=f"rank 1 of {processes} was killed"):
        train_until_killed(processes, first, tokens, folder, kill_at=last + 2)
    gone_on = go_on_by(others, case(**settings, **other_sharing), tokens, folder)
    done = STEPS - len(gone_on["losses"])
    assert done == last + 1, "from the checkpoint before the kill"
    for name in ("losses", "norms"):
        alone[name] = alone[name][done:]
    alone["averages"] = alone["averages"][-len(gone_on["averages"]) :]
    assert_equal(gone_on, alone)


# A matrix is orthogonalised in bf16, so what two ranks' sum rounds otherwise is soon seen.
MUON = {"optimizer": "muon", "ema_decay": 0.9, "learning_rate": 3e-3}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_with_muon_go_on_bit_for_bit(
    tokens: Path, tmp_path: Path, precision: str
) -> None:
    settings = case(**MUON, precision=precision)
    alone = train(settings, tokens)
    (undisturbed,) = train_by(2, [settings], tokens)
    assert undisturbed["losses"] == pytest.approx(alone["losses"], rel=0.02)
    with pytest.raises(RankLost, match="rank 1 of 2 was killed"):
        train_until_killed(2, settings, tokens, tmp_path / "checkpoints", kill_at=12)
    gone_on = go_on_by(2, settings, tokens, tmp_path / "checkpoints")
    assert len(gone_on["losses"]) == STEPS - 11
    assert gone_on["losses"] == undisturbed["losses"][11:]
    assert gone_on["history"] == undisturbed["history"]
    assert gone_on["bits"] == undisturbed["bits"]


@pytest.mark.slow
def test_muon_whatever_the_settings(tokens: Path) -> None:
    few = {**MUON, "max_steps": 5}
    cases = (
        case(**few, gradient_accumulation=2),
        case(**few, grad_clip=0.5),
        case(**few, activation_checkpointing=True),
        case(TIED, **few, **EVERYTHING),
    )
    everyone = [train(each, tokens) for each in cases]
    for shared, alone in zip(train_by(2, cases, tokens), everyone, strict=True):
        assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        assert shared["norms"] == pytest.approx(alone["norms"], rel=0.02)
        assert shared["average"] == pytest.approx(alone["average"], rel=1e-2)


@pytest.mark.slow
def test_in_bf16_and_with_tied_weights(tokens: Path) -> None:
    bf16 = {"precision": "bf16", "max_steps": 5, "learning_rate": 3e-3}
    cases = [case(**bf16), case(TIED, **bf16), case(TIED, **bf16, sharding="full")]
    for expected, shared in zip(
        [train(case, tokens) for case in cases], train_by(2, cases, tokens), strict=True
    ):
        assert shared["losses"] == pytest.approx(expected["losses"], rel=1e-3)


@pytest.mark.slow
def test_with_dropout_ranks_drop_out_differently_and_the_same_again(tokens: Path) -> None:
    dropping = [case({"dropout": 0.5}, max_steps=5)]
    (first,), (again,) = (train_by(2, dropping, tokens) for _ in range(2))
    (fewer,) = train_by(2, [case({"dropout": 0.5}, max_steps=4)], tokens)
    assert first["losses"] == again["losses"]
    assert first["losses"][:4] == fewer["losses"]
    assert first["losses"] != train(dropping[0], tokens)["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_loss_that_diverges_on_one_rank_ends_all_in_the_same_words(
    tokens: Path, tmp_path: Path, sharding: str
) -> None:
    """The best weights are kept, whole."""
    settings = case(eval_every=10, processes=2, sharding=sharding, learning_rate=1e-3)
    world = World.on_one_machine(2)
    rescue = tmp_path / "best"
    made: list[Trainer] = []

    def lead() -> None:
        with launch(world, CPU, run_job_worker, settings, tokens):
            observer, job = StepLog(), job_of(settings, tokens, world)
            trainer = job.trainer(observer)
            made.append(trainer)
            observer.on_step = lambda step: poison(trainer) if step.step == 3 else None
            job.run(trainer, rescue)

    with pytest.raises(Diverged, match="the training loss became nan after step 3"):
        lead()
    (trainer,) = made
    assert trainer.best_weights is not None
    assert trainer.best_weights.step == 0
    found = load_model(rescue).state_dict()
    started = GPT(load_config(rescue))
    initialise(started, "pytorch", derive_seed(trainer.batches.seed, "weights"))
    for name, tensor in started.state_dict().items():
        assert torch.equal(found[name], tensor), name


def poison(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.ln_f.weight.fill_(math.nan)
