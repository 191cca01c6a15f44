"""A model's folder as the start of another training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.saved import load_model
from pipeline.model.start import Start
from pipeline.params import Train
from pipeline.system.checksums import write_sums
from pipeline.training.initial_state import restore_optimizer
from pipeline.training.loop import Trainer
from pipeline.training.optim import build_optimizer
from pipeline.training.outputs import save_training
from pipeline.weights import find_start, starting_model
from tests.helpers.damage import flip

SCRATCH = Start(init_from="scratch", init="pytorch", seed=3)


def start_from(folder: Path, config: GPTConfig) -> GPT:
    start = Start(init_from=str(folder), init="pytorch", seed=3)
    return starting_model(config, start, find_start(start.init_from))


@pytest.fixture(scope="module")
def made() -> list[tuple[Trainer, Path]]:
    """A training and its folder, once there is one."""
    return []


@pytest.fixture
def trained(make_trainer, made: list[tuple[Trainer, Path]], tmp_path: Path) -> tuple[Trainer, Path]:
    """A training, and a copy of its folder to change."""
    if not made:
        trainer, _ = make_trainer()
        trainer.run()
        save_training(tmp_path / "first", trainer, SCRATCH)
        made.append((trainer, tmp_path / "first"))
    trainer, first = made[0]
    return trainer, Path(shutil.copytree(first, tmp_path / "model"))


def test_scratch_is_the_seeds_alone(config) -> None:
    first, second = (starting_model(config, SCRATCH, None) for _ in range(2))
    assert torch.equal(first.wte.weight, second.wte.weight)


def test_a_folders_last_weights_and_optimizer(trained, config) -> None:
    trainer, folder = trained
    model = start_from(folder, replace(config, dropout=0.4))
    assert model.config.dropout == 0.4
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    optimizer = build_optimizer(model, Train(learning_rate=0.1, weight_decay=0.0))
    assert restore_optimizer(optimizer, folder, Train())
    moments = optimizer.state[model.wte.weight]
    assert torch.equal(
        moments["exp_avg"], trainer.optimizer.state[trainer.model.wte.weight]["exp_avg"]
    )
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_a_fresh_optimizer_forgets_the_moments(trained, config) -> None:
    _, folder = trained
    model = start_from(folder, config)
    optimizer = build_optimizer(model, Train())
    assert not restore_optimizer(optimizer, folder, Train(init_optimizer="fresh"))
    assert not optimizer.state


@pytest.mark.parametrize("init_from", ["scratch", "gpt2-124M", "FOLDER"])
def test_an_optimizer_that_must_be_restored_must_be_there(trained, config, init_from: str) -> None:
    _, folder = trained
    (folder / "optimizer.pth").unlink()
    optimizer = build_optimizer(GPT(config), Train())
    found = find_start(init_from.replace("FOLDER", str(folder)))
    with pytest.raises(UserError, match=r"train\.init_optimizer: restored asked for"):
        restore_optimizer(
            optimizer,
            found and found.folder,
            Train(init_from=str(folder), init_optimizer="restored"),
        )


def test_another_optimizers_state_is_refused_with_the_remedy(trained, config) -> None:
    _, folder = trained
    optimizer = build_optimizer(start_from(folder, config), Train(optimizer="muon"))
    with pytest.raises(UserError, match=r"optimizer muon: .*; set train\.init_optimizer to fr"):
        restore_optimizer(optimizer, folder, Train(optimizer="muon"))


def test_training_on_leaves_the_first_model_alone(trained, config) -> None:
    _, folder = trained
    before = (folder / "model.pth").read_bytes()
    model = start_from(folder, config)
    with torch.no_grad():
        model.wte.weight.zero_()
    assert (folder / "model.pth").read_bytes() == before


def test_a_shorter_context_takes_the_first_positions(trained, config) -> None:
    trainer, folder = trained
    model = start_from(folder, replace(config, context_length=4))
    assert torch.equal(model.wpe.weight, trainer.model.wpe.weight[:4])


def test_another_architecture_is_refused_with_every_key(trained, config) -> None:
    _, folder = trained
    with pytest.raises(UserError) as caught:
        start_from(folder, replace(config, n_layer=3, n_head=4))
    message = str(caught.value)
    assert "model.n_layer is 3 and would have to be 2" in message
    assert "model.n_head is 4 and would have to be 2" in message


def test_a_foreign_optimizer_is_refused(trained, config) -> None:
    _, folder = trained
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pth")
    write_sums(folder)
    optimizer = build_optimizer(GPT(config), Train())
    with pytest.raises(UserError, match=r"optimizer\.pth: not this model's optimizer"):
        restore_optimizer(optimizer, folder, Train())


def test_training_from_half_precision_weights_is_in_float32(trained, config) -> None:
    _, folder = trained
    path = folder / "model.pth"
    state = torch.load(path, weights_only=True)
    torch.save({name: t.bfloat16() for name, t in state.items()}, path)
    write_sums(folder)
    assert start_from(folder, config).wte.weight.dtype == torch.float32


def without(values: dict, key: object) -> dict:
    return {k: v for k, v in values.items() if k != key}


MOMENT = [
    (lambda t: t[:1], "has shape"),
    (lambda t: t.double(), "is float64, not float32"),
    (lambda t: t.bfloat16(), "is bfloat16, not float32"),
    (lambda t: t.to(torch.complex64), "is complex64, not float32"),
    (lambda t: t.to_sparse(), "is not a dense tensor"),
    (lambda t: t.to("meta"), "is not a dense tensor"),
    (lambda t: torch.zeros(1).expand(t.shape), "repeats its numbers"),
    (lambda t: torch.full_like(t, float("nan")), "holds nan at"),
    (lambda t: t - 1, "has a number below 0"),
    (lambda t: [1.0], "instance of Tensor"),
]


@pytest.mark.parametrize(("change", "message"), MOMENT)
def test_a_moment_that_is_not_the_models_is_refused(trained, config, change, message) -> None:
    """The fused kernel would write beyond its memory."""
    _, folder = trained
    path = folder / "optimizer.pth"
    saved = torch.load(path, weights_only=True)
    moments = saved["state"][0]
    torch.save(
        saved
        | {"state": saved["state"] | {0: moments | {"exp_avg_sq": change(moments["exp_avg_sq"])}}},
        path,
    )
    write_sums(folder)
    with pytest.raises(UserError, match=r"optimizer\.pth: .*state\.0\.") as caught:
        restore_optimizer(build_optimizer(GPT(config), Train()), folder, Train())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: [s],
        lambda s: torch.zeros(2),
        lambda s: without(s, "state"),
        lambda s: s | {"state": without(s["state"], 0)},
        lambda s: s | {"state": s["state"] | {10**6: s["state"][0]}},
        lambda s: s | {"state": s["state"] | {0: without(s["state"][0], "exp_avg")}},
        lambda s: s | {"state": s["state"] | {0: s["state"][0] | {"momentum": torch.zeros(1)}}},
        lambda s: s | {"state": s["state"] | {0: s["state"][0] | {"step": "three"}}},
        lambda s: s | {"state": s["state"] | {0: s["state"][0] | {"step": torch.zeros(3)}}},
        lambda s: s | {"state": s["state"] | {0: s["state"][0] | {"step": torch.tensor(3)}}},
        lambda s: s | {"param_groups": s["param_groups"][:1]},
        lambda s: s | {"param_groups": s["param_groups"][::-1]},
        lambda s: s | {"param_groups": [{"params": torch.zeros(2)}] * 2},
        lambda s: s | {"param_groups": 5},
    ],
)
def test_an_optimizer_file_of_another_form_is_refused(trained, config, change) -> None:
    _, folder = trained
    path = folder / "optimizer.pth"
    torch.save(change(torch.load(path, weights_only=True)), path)
    write_sums(folder)
    optimizer = build_optimizer(GPT(config), Train())
    with pytest.raises(UserError, match=r"optimizer\.pth: ") as caught:
        restore_optimizer(optimizer, folder, Train())
    assert "\n" not in str(caught.value)
    assert not optimizer.state


def test_of_a_saved_optimizer_only_the_moments_are_taken(trained, config) -> None:
    """`capturable` or another eps would change what the kernel does."""
    _, folder = trained
    path = folder / "optimizer.pth"
    saved = torch.load(path, weights_only=True)
    for group in saved["param_groups"]:
        group.update(lr="fast", betas=None, eps=1.0, fused=False, capturable=True)
    torch.save(saved, path)
    write_sums(folder)
    optimizer = build_optimizer(GPT(config), Train(learning_rate=0.1))
    before = [without(group, "params") for group in optimizer.param_groups]
    assert restore_optimizer(optimizer, folder, Train())
    assert [without(group, "params") for group in optimizer.param_groups] == before


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.pth", load_model),
        ("best.pth", lambda folder: load_model(folder, "best")),
        ("config.json", load_model),
        ("start.json", Start.load),
        ("optimizer.pth", lambda folder: restore_optimizer(None, folder, Train())),
    ],
)
def test_what_was_changed_after_the_training_is_refused(trained, name: str, read) -> None:
    _, folder = trained
    read(folder) if name != "optimizer.pth" else None
    at = {"config.json": 15, "start.json": -3}.get(name)  # a digit becomes another
    flip(folder / name, at)
    with pytest.raises(UserError, match=rf"{name}: its SHA-256 is .*`dvc checkout`.*train"):
        read(folder)


def test_a_folder_without_digests_is_anothers_and_read(trained) -> None:
    _, folder = trained
    (folder / "_SHA256SUMS").unlink()
    assert load_model(folder)
