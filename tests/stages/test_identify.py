"""The stage that lets DVC see when a local corpus or first weights change, under DVC itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.gpt2.export import export
from pipeline.identify import identify_start
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.saved import save_config
from pipeline.model.start import config_of
from pipeline.params import Gpt2, Model, Params, Train
from pipeline.system.files import sha256_of

PIPELINE = """
stages:
  identify:
    cmd: >-
      {python} -m stages.identify --report reports/identity.json --start reports/start.json
      --ensemble reports/ensemble.json
    always_changed: true
    params: [prepare, train.init_from, evaluate.ensemble]
    metrics:
      - reports/identity.json: {{cache: false}}
      - reports/start.json: {{cache: false}}
      - reports/ensemble.json: {{cache: false}}
  train:
    cmd: {python} -c "print()"
    deps: [reports/start.json]
  evaluate:
    cmd: {python} -c "print()"
    deps: [reports/ensemble.json]
    params: [evaluate]
  baseline:
    cmd: {python} -c "print()"
    params: [evaluate.batch_size, evaluate.windows]
  prepare:
    cmd: {python} -m stages.prepare --corpus data/corpus --report reports/corpus.json
    deps: [reports/identity.json]
    params: [prepare]
    outs: [data/corpus]
    metrics: [{{reports/corpus.json: {{cache: false}}}}]
"""


def dvc(folder: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "DVC_NO_ANALYTICS": "1"}
        | {"DVC_SITE_CACHE_DIR": str(folder / ".site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    dvc(tmp_path, "init", "--no-scm", "-q")
    (tmp_path / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (tmp_path / "params.yaml").write_text(
        "prepare: {corpus: mine.txt}\ntrain: {init_from: models/first}\n"
        "evaluate: {batch_size: 8, windows: null, ensemble: [models/first, models/second, trained]}"
    )
    (tmp_path / "mine.txt").write_text("one")
    return tmp_path


def test_only_what_depends_on_an_edited_local_text_or_other_first_weights_runs(
    repository: Path,
) -> None:
    folder, second = repository / "models" / "first", repository / "models" / "second"
    for one in (folder, second):
        save_config(one, GPTConfig())
        for name in ("model.pth", "best.pth"):
            (one / name).write_bytes(one.name.encode())
    first = dvc(repository, "repro")
    assert "Running stage 'prepare'" in first
    assert "Running stage 'train'" in first
    report = repository / "reports" / "corpus.json"
    before = report.read_bytes()

    (repository / "mine.txt").write_text("two")
    (second / "best.pth").write_bytes(b"two")
    again = dvc(repository, "repro")
    assert "Running stage 'prepare'" in again
    assert "Running stage 'evaluate'" in again
    for stage in ("train", "baseline"):
        assert f"Stage '{stage}' didn't change, skipping" in again
    assert report.read_bytes() != before

    (folder / "model.pth").write_bytes(b"two")
    again = dvc(repository, "repro")
    assert "Running stage 'train'" in again
    for stage in ("prepare", "evaluate"):
        assert f"Stage '{stage}' didn't change, skipping" in again

    params = repository / "params.yaml"
    params.write_text(params.read_text().replace(", trained]", "]"))
    again = dvc(repository, "repro")
    assert "Running stage 'evaluate'" in again
    for stage in ("train", "baseline"):
        assert f"Stage '{stage}' didn't change, skipping" in again
    assert "models/first" in (repository / "reports" / "start.json").read_text()


TINY = Model(n_layer=1, n_head=2, n_embd=8, context_length=16, qkv_bias=True, tie_weights=True)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder `124M` of a tiny GPT-2 in Hugging Face's layout."""
    model = GPT(config_of(TINY))
    initialise(model, "gpt2", 1)
    export(model, tmp_path / "124M")
    return tmp_path


def test_what_a_gpt2_that_a_training_starts_from_holds_is_noted(weights: Path, cache: Path) -> None:
    params = Params(train=Train(init_from="gpt2-124M"), gpt2=Gpt2(source=str(weights)), model=TINY)
    first = identify_start(params).model_dump()
    digests = {name: sha256_of(weights / "124M" / name) for name in first["files"]}
    assert first == {
        "init_from": "gpt2-124M",
        "source": str(weights),
        "mirror": None,
        "files": digests,
    }
    assert list(digests) == ["config.json", "model.safetensors"]


def test_a_gpt2_that_cannot_be_had_ends_it(cache: Path) -> None:
    """Before anything is prepared for a training that could not start; and without the secret."""
    mirror = Gpt2(mirror="http://me:secret@127.0.0.1:1/gpt2")
    params = Params(train=Train(init_from="gpt2-124M"), gpt2=mirror)
    with pytest.raises(UserError, match=r"GPT-2 124M cannot be had: 127\.0\.0\.1 cannot") as error:
        identify_start(params)
    assert "secret" not in str(error.value)


def test_a_folder_of_another_architecture_or_of_none_ends_it(tmp_path: Path) -> None:
    params = Params(train=Train(init_from=str(tmp_path)), model=TINY)
    for name in ("config.json", "model.pth"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: n_layer: field required"):
        identify_start(params)
    save_config(tmp_path, GPTConfig(n_layer=2, n_head=2, n_embd=8))
    with pytest.raises(UserError, match=r"fits no such model: model\.n_layer is 1 and would have"):
        identify_start(params)
    with pytest.raises(UserError, match=r"models/scratch is what a training replaces"):
        identify_start(Params(train=Train(init_from="models/scratch")))


def test_a_changed_config_trains_anew(tmp_path: Path) -> None:
    """As many heads as divide the width fit the same weights, and are another model."""
    config = config_of(TINY)
    save_config(tmp_path, config)
    (tmp_path / "model.pth").write_bytes(b"one")
    params = Params(train=Train(init_from=str(tmp_path)), model=TINY)
    first = identify_start(params)
    save_config(tmp_path, replace(config, dropout=0.2))
    assert identify_start(params) != first
