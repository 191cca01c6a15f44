"""What a training job is made of, and what is left when it breaks off."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.model.saved import load_model
from pipeline.params import Params
from pipeline.system.checksums import write_sums
from pipeline.training.events import Diverged
from pipeline.training.job import TrainingJob
from pipeline.weights import Source
from tests.helpers.damage import flip


@pytest.fixture
def job(tokens: Path) -> TrainingJob:
    params = Params.model_validate(
        {
            "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context_length": 8},
            "train": {"epochs": 1, "eval_every": 2, "precision": "fp32"},
        }
    )
    return TrainingJob.open(params, tokens)


def test_a_loss_that_diverges_keeps_the_best_weights(
    job: TrainingJob, make_trainer, tmp_path: Path
) -> None:
    trainer, memory = make_trainer(eval_every=2)

    def poison(step) -> None:
        if step.step == 5:
            good = trainer.best_weights.tensors["ln_f.weight"].clone()
            trainer.model.ln_f.weight.data.fill_(math.nan)
            assert torch.equal(trainer.best_weights.tensors["ln_f.weight"], good)

    memory.on_step = poison
    rescue = tmp_path / "best"
    with pytest.raises(Diverged, match=f"the best weights, of step 4, are kept in {rescue}"):
        job.run(trainer, rescue)
    assert torch.equal(load_model(rescue).wte.weight, trainer.best_weights.tensors["wte.weight"])


def test_a_gpu_without_memory_for_the_batch_is_an_error_with_a_way_out(
    job: TrainingJob, make_trainer, tmp_path: Path
) -> None:
    trainer, _ = make_trainer()

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More words")

    trainer.model.h[0].register_forward_pre_hook(refuse)
    with pytest.raises(
        UserError, match=r"^train\.batch_size: 2 windows do not fit .*auto"
    ) as caught:
        job.run(trainer, tmp_path / "best")
    assert "(CUDA out of memory)" in str(caught.value)


def test_a_loss_that_was_never_good_keeps_nothing(
    job: TrainingJob, make_trainer, tmp_path: Path
) -> None:
    trainer, _ = make_trainer()
    trainer.model.ln_f.weight.data.fill_(math.inf)
    with pytest.raises(Diverged, match=r"after step 0 .*learning_rate"):
        job.run(trainer, tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_replicas_must_share_the_processes_equally(job: TrainingJob, tokens: Path) -> None:
    """Also those that torchrun has started, of which the settings know nothing."""
    world = World(1, 6, 1, 6)
    train = job.params.train.model_copy(
        update={"sharding": "full", "replicas": 4, "batch_size": 6, "device": "cpu"}
    )
    params = job.params.model_copy(update={"train": train})
    with pytest.raises(UserError, match=r"train\.replicas: 4 groups cannot share 6 processes"):
        TrainingJob.open(params, tokens, world)
    assert World(4, 6, 0, 1).shard(train.model_copy(update={"replicas": 2})) == (1, 3)


def test_the_fingerprint_is_of_what_decides_the_weights(job: TrainingJob) -> None:
    def with_(section: str, **values: object) -> str:
        changed = getattr(job.params, section).model_copy(update=values)
        params = job.params.model_copy(update={section: changed})
        return replace(job, params=params).fingerprint

    assert with_("sample", temperature=0.1) == job.fingerprint
    assert with_("tracking", experiment="other") == job.fingerprint
    assert with_("train", learning_rate=0.1) != job.fingerprint
    assert with_("train", processes=2, replicas=2, checkpoint_every=1) == job.fingerprint
    assert with_("model", dropout=0.3) != job.fingerprint


def test_the_fingerprint_is_of_the_weights_that_training_starts_from(
    job: TrainingJob, tmp_path: Path
) -> None:
    folder = tmp_path / "start"
    folder.mkdir()

    def started_from(content: bytes) -> str:
        (folder / "model.pth").write_bytes(content)
        return replace(job, source=Source(str(folder), folder=folder)).fingerprint

    assert started_from(b"one") == started_from(b"one")
    assert started_from(b"one") != started_from(b"two")


def test_other_tokens_are_another_training_and_damaged_ones_are_none(
    job: TrainingJob, tokens: Path
) -> None:
    def reopened() -> str:
        return TrainingJob.open(job.params, tokens).fingerprint

    assert reopened() == job.fingerprint
    flip(tokens / "train" / "00000.bin", at=1, count=3)
    with pytest.raises(UserError, match=r"train/00000\.bin: its SHA-256 .*dvc repro -f split"):
        reopened()
    write_sums(tokens / "train")  # they were meant
    assert reopened() != job.fingerprint
