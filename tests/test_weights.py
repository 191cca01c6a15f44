"""A name finds one model, or an error that says which names there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.model.gpt import GPTConfig
from pipeline.model.saved import save_config
from pipeline.weights import FOLDER, Source, find, find_members, find_start, is_trained

RUN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    for name in ("config.json", "model.pth"):
        (path / name).touch()
    return path


def test_scratch_is_random_weights_for_a_training_and_nothing_else() -> None:
    assert find_start("scratch") is None
    with pytest.raises(UserError, match=r"scratch is random weights.*`trained`"):
        find("scratch")


def test_trained_is_what_the_train_stage_wrote() -> None:
    assert find("trained") == Source("trained", folder=FOLDER)


def test_sizes_of_gpt2() -> None:
    assert find("gpt2-355M").size == "355M"
    with pytest.raises(UserError, match="gpt2-1G: GPT-2's sizes are 124M, 355M, 774M, 1558M"):
        find("gpt2-1G")


def test_a_folder_of_a_runs_name_goes_before_the_run(here: Path) -> None:
    model_folder(here / RUN)
    assert find(RUN).folder == Path(RUN)


def test_a_folder_that_holds_no_model(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no config\.json and model\.pth"):
        find("empty")


def test_a_training_names_the_key_and_every_way_out() -> None:
    with pytest.raises(UserError, match=r"train\.init_from: nowhere: no such model") as caught:
        find_start("nowhere")
    for way in ("`scratch`", "gpt2-SIZE", "folder", "lossbook runs"):
        assert way in str(caught.value)
    assert "`trained`" not in str(caught.value)


@pytest.mark.parametrize("name", ["trained", "models/scratch", "./models/../models/scratch/"])
def test_a_training_does_not_start_from_what_it_replaces(name: str, here: Path) -> None:
    model_folder(here / FOLDER)
    with pytest.raises(UserError, match=rf"train\.init_from: {name} is what a training replaces"):
        find_start(name)


def test_what_else_a_training_starts_from_and_its_config_are_noted(here: Path) -> None:
    folder = model_folder(here / "mine")
    source = find_start("mine")
    assert source is not None
    assert source.files == [Path("mine/config.json"), Path("mine/model.pth")]
    (folder / "model.pth").unlink()
    with pytest.raises(UserError, match=r"train\.init_from: mine: holds no config\.json and model"):
        find_start("mine")


def test_a_name_that_no_file_can_have_is_named_with_its_key() -> None:
    with pytest.raises(UserError, match=r"^train\.init_from: a model: 'nnn.*File name too long"):
        find_start("n" * 10_000)


def member(path: Path, **config: int) -> str:
    path.mkdir()
    save_config(path, GPTConfig(**config))
    (path / "best.pth").write_text(path.name)
    (path / "optimizer.pth").touch()
    return path.name


def test_the_models_of_an_ensemble_are_their_best_weights(here: Path) -> None:
    names = [member(here / "one", n_layer=1), member(here / "two", n_layer=2)]
    found = find_members(names, GPTConfig().context_length)
    assert [(source.name, source.which) for source in found] == [("one", "best"), ("two", "best")]
    assert found[0].files == [Path("one/config.json"), Path("one/best.pth")]
    assert [is_trained(name) for name in ("trained", "./models/scratch", "one")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere: no such model; give `trained`, gpt2-SIZE, a folder, or a run"),
        ("scratch", "scratch is random weights"),
        ("gpt2-124M", "gpt2-124M has a row of its own; name trained models"),
        ("empty", "empty: holds no config.json and best.pth"),
        ("short", "'short' has context_length 8, not 256"),
        ("other", "'other' has vocab_size 99, not 50,257"),
    ],
)
def test_what_cannot_be_of_an_ensemble_is_named_with_its_key(
    here: Path, name: str, said: str
) -> None:
    (here / "empty").mkdir()
    member(here / "short", context_length=8)
    member(here / "other", vocab_size=99)
    with pytest.raises(UserError, match=f"^evaluate.ensemble: {said}"):
        find_members([name], 256)
