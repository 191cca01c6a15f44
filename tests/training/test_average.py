"""The moving average of the weights: what it is, what is measured of it, what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model.perplexity import measure
from pipeline.model.runtime import Runtime
from pipeline.model.saved import load_model
from pipeline.model.start import Start
from pipeline.training.average import decay_at
from pipeline.training.optim import OPTIMIZERS
from pipeline.training.outputs import save_training, summary

SCRATCH = Start(init_from="scratch", init="pytorch", seed=3)
BF16 = Runtime(torch.device("cpu"), bf16=True)


def test_the_decay_grows_from_nothing_to_what_is_asked_for() -> None:
    assert [decay_at(step, 0.5) for step in (0, 1, 3, 9, 10, 10**6)] == [
        0,
        0.1,
        0.25,
        0.5,
        0.5,
        0.5,
    ]
    assert decay_at(10**9, 0.999) == 0.999
    assert {decay_at(step, 0.0) for step in range(20)} == {0.0}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_the_mean_that_its_formula_gives(make_trainer, optimizer: str) -> None:
    trainer, memory = make_trainer(optimizer=optimizer, ema_decay=0.8, gradient_accumulation=2)
    after: list[dict[str, torch.Tensor]] = []
    memory.on_step = lambda step: after.append(
        {name: p.detach().double() for name, p in trainer.model.named_parameters()}
    )
    trainer.run()
    assert len(after) == 10
    for name, found in trainer.last_average.items():
        expected = after[0][name]
        for step, weights in enumerate(after):
            decay = min(0.8, step / (9 + step))
            expected = decay * expected + (1 - decay) * weights[name]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("runtime", [Runtime(torch.device("cpu"), bf16=False), BF16])
def test_it_changes_nothing_else(make_trainer, runtime: Runtime, tmp_path: Path) -> None:
    trainers = []
    for name, ema in (("with", {"ema_decay": 0.7}), ("without", {})):
        trainer, memory = make_trainer(runtime=runtime, **ema)
        trainer.run()
        save_training(tmp_path / name, trainer, SCRATCH)
        trainers.append((trainer, memory))
    (averaged, memory), (plain, others) = trainers
    assert averaged.history == plain.history
    assert others.averages == [None] * len(others.evaluations)
    for name in ("model.pth", "best.pth"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    save_training(tmp_path / "with", plain, SCRATCH)  # leaves no average of another training
    assert not (tmp_path / "with" / "ema.pth").exists()
    save_training(tmp_path / "with", averaged, SCRATCH)
    states = [torch.load(tmp_path / name / "optimizer.pth") for name in ("with", "without")]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for tensors, expected in zip(*(state["state"].values() for state in states), strict=True):
        assert tensors.keys() == expected.keys()  # none of the average
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert not (tmp_path / "without" / "ema.pth").exists()
    assert "ema.pth" in (tmp_path / "with" / "_SHA256SUMS").read_text()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_of_a_decay_of_0_it_is_the_last_weights(
    make_trainer, optimizer: str, tmp_path: Path
) -> None:
    trainer, memory = make_trainer(optimizer=optimizer, ema_decay=0.0)
    trainer.run()
    save_training(tmp_path, trainer, SCRATCH)
    assert (tmp_path / "ema.pth").read_bytes() == (tmp_path / "model.pth").read_bytes()
    assert memory.averages == [None, *(row.val_loss for row in memory.evaluations[1:])]


@pytest.mark.parametrize("runtime", [Runtime(torch.device("cpu"), bf16=False), BF16])
def test_its_validation_loss_is_that_of_the_file(
    make_trainer, runtime: Runtime, tmp_path: Path
) -> None:
    trainer, memory = make_trainer(runtime=runtime, ema_decay=0.9, epochs=4, learning_rate=0.03)
    trainer.run()
    save_training(tmp_path, trainer, SCRATCH)
    model = load_model(tmp_path, "ema")
    with runtime.autocast():
        loss = measure(model, trainer.val_windows, 2).loss
    assert memory.averages[-1] == trainer.ema_val_loss == pytest.approx(loss, rel=1e-4)
    assert abs(loss - trainer.history[-1].val_loss) > 0.01
    report = summary(model, trainer.history, trainer.best, [], trainer.ema_val_loss)
    assert report.model_dump()["ema"] == {"step": 40, "val_loss": trainer.ema_val_loss}
