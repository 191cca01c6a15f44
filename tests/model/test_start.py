"""Where a training starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.start import Start, starting_folder, starting_model, starting_optimizer
from pipeline.params import Train
from pipeline.training.job import save_training
from pipeline.training.optim import build_optimizer

SCRATCH = Start(init_from="scratch", init="pytorch", seed=3)


def start_at(folder: Path) -> Start:
    return Start(init_from=str(folder), init="pytorch", seed=3)


@pytest.fixture
def trained(make_trainer, tmp_path: Path):
    trainer, _ = make_trainer()
    trainer.run()
    save_training(tmp_path / "model", trainer, SCRATCH)
    return trainer, tmp_path / "model"


def test_scratch_is_the_seeds_alone(config) -> None:
    first, second = starting_model(config, SCRATCH), starting_model(config, SCRATCH)
    assert torch.equal(first.wte.weight, second.wte.weight)


def test_a_folders_last_weights_and_optimizer(trained, config) -> None:
    trainer, folder = trained
    model = starting_model(replace(config, dropout=0.4), start_at(folder))
    assert model.config.dropout == 0.4
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    optimizer = build_optimizer(model, Train(learning_rate=0.1, weight_decay=0.0))
    assert starting_optimizer(optimizer, folder)
    moments = optimizer.state[model.wte.weight]
    assert torch.equal(
        moments["exp_avg"], trainer.optimizer.state[trainer.model.wte.weight]["exp_avg"]
    )
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_a_fresh_optimizer_forgets_the_moments(trained, config) -> None:
    _, folder = trained
    model = starting_model(config, start_at(folder))
    optimizer = build_optimizer(model, Train())
    assert not starting_optimizer(optimizer, folder, "fresh")
    assert not optimizer.state


@pytest.mark.parametrize("init_from", ["scratch", "gpt2-124M", "FOLDER"])
def test_an_optimizer_that_must_be_restored_must_be_there(trained, config, init_from: str) -> None:
    _, folder = trained
    (folder / "optimizer.pth").unlink()
    optimizer = build_optimizer(GPT(config), Train())
    found = starting_folder(init_from.replace("FOLDER", str(folder)), Path)
    with pytest.raises(UserError, match=r"train\.init_optimizer: restored asked for"):
        starting_optimizer(optimizer, found, "restored")


def test_training_on_leaves_the_first_model_alone(trained, config) -> None:
    _, folder = trained
    before = (folder / "model.pth").read_bytes()
    model = starting_model(config, start_at(folder))
    with torch.no_grad():
        model.wte.weight.zero_()
    assert (folder / "model.pth").read_bytes() == before


def test_a_shorter_context_takes_the_first_positions(trained, config) -> None:
    trainer, folder = trained
    model = starting_model(replace(config, context_length=4), start_at(folder))
    assert torch.equal(model.wpe.weight, trainer.model.wpe.weight[:4])


def test_a_run_is_looked_up_and_a_folder_of_its_name_is_not(
    trained, config, tmp_path, monkeypatch
) -> None:
    trainer, folder = trained
    asked = []

    def find_run(run: str) -> Path:
        asked.append(run)
        return folder

    run = "0123456789abcdef" * 2
    found = starting_folder(run, find_run)
    start = Start(init_from=run, init="pytorch", seed=3)
    model = starting_model(config, start, folder=found)
    assert asked == [run]
    assert torch.equal(model.wte.weight, trainer.model.wte.weight)
    (tmp_path / run[:16]).mkdir()
    monkeypatch.chdir(tmp_path)
    assert starting_folder(run[:16], find_run) == Path(run[:16])
    assert starting_folder("gpt2-124M", find_run) is None
    assert asked == [run]


def test_another_architecture_is_refused_with_every_key(trained, config) -> None:
    _, folder = trained
    with pytest.raises(UserError) as caught:
        starting_model(replace(config, n_layer=3, n_head=4), start_at(folder))
    message = str(caught.value)
    assert "model.n_layer is 3 and would have to be 2" in message
    assert "model.n_head is 4 and would have to be 2" in message


def test_a_folder_that_is_none(config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.init_from: .*neither `scratch`"):
        starting_model(config, start_at(tmp_path / "nowhere"))


def test_a_foreign_optimizer_is_refused(trained, config) -> None:
    _, folder = trained
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pth")
    optimizer = build_optimizer(GPT(config), Train())
    with pytest.raises(UserError, match=r"optimizer\.pth: not this model's optimizer"):
        starting_optimizer(optimizer, folder)
