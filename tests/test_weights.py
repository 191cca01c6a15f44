"""A name finds one model, or an error that says which names there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.weights import FOLDER, Source, find, find_start

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
