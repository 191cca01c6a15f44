"""The tag by which runs of one setting stand together, whatever their seeds."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.params import Params, flatten
from pipeline.training.job import TrainingJob
from pipeline.training.recorder import run_header
from tests.helpers.tokens import write_split

MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context_length": 8}


@pytest.fixture
def job(tokens: Path) -> TrainingJob:
    return TrainingJob.open(Params.model_validate({"model": MODEL}), tokens)


def with_param(job: TrainingJob, key: str, value: Any) -> TrainingJob:
    """The same job with a param of any value, right or wrong."""
    section, _, name = key.rpartition(".")
    inner = getattr(job.params, section).model_copy(update={name: value}) if section else value
    return replace(job, params=job.params.model_copy(update={section or name: inner}))


def tag_of(job: TrainingJob) -> str:
    return str(run_header(job)["tags"]["setting"])


def test_seeds_share_it(job: TrainingJob) -> None:
    tags = {tag_of(with_param(job, "seed", seed)) for seed in range(5)}
    (tag,) = tags
    assert tag.startswith("lr=4e-04 ")
    assert "seed" not in tag


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_any_other_param_gives_another(job: TrainingJob) -> None:
    """4.01e-4 and 4.04e-4 have one name, `lr=4e-04`."""
    values = flatten(job.params.model_dump(include={"model", "train"}))
    tags = [tag_of(with_param(job, key, another(value))) for key, value in values.items()]
    tags += [tag_of(with_param(job, "train.learning_rate", rate)) for rate in (4.01e-4, 4.04e-4)]
    assert len(values) > 20
    assert len({tag_of(job), *tags}) == len(tags) + 1


def another(value: Any) -> Any:
    """Of the same type, whether such a param is right or not."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return 7 if value is None else 2 * value


def test_another_text_or_length_gives_another(
    job: TrainingJob, tokens: Path, tmp_path: Path
) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(tokens, copy)
    shutil.copytree(tokens, other)
    write_split(other / "val", list(range(60)))
    tags = [tag_of(TrainingJob.open(job.params, folder)) for folder in (tokens, copy, other)]
    assert tags[0] == tags[1] != tags[2]


def test_a_long_name_is_cut_and_the_tag_still_tells_runs_apart(job: TrainingJob) -> None:
    tags = [tag_of(with_param(job, "train.sample_prompt", "x" * 900 + end)) for end in "ab"]
    assert tags[0] != tags[1]
    assert max(map(len, tags)) < 300
