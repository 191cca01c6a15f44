"""A training that starts from OpenAI's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.gpt2.assemble import config_of
from pipeline.gpt2.load import load_gpt2
from pipeline.model.start import Start
from pipeline.params import Gpt2
from pipeline.weights import find_start, starting_model
from tests.helpers.checkpoints import TINY

START = Start(init_from="gpt2-124M", init="pytorch", seed=1)
SOURCE = find_start(START.init_from)


def test_takes_gpt2s_weights_under_this_runs_dropout_and_context(tiny: Path) -> None:
    settings = Gpt2(source=str(tiny))
    wanted = replace(config_of(TINY), dropout=0.1, context_length=32)
    model = starting_model(wanted, START, SOURCE, settings)
    theirs = load_gpt2("124M", settings)
    assert model.config == wanted
    assert torch.equal(model.wpe.weight, theirs.wpe.weight[:32])
    assert torch.equal(model.h[1].mlp.c_fc.weight, theirs.h[1].mlp.c_fc.weight)
    assert model.head_weight is model.wte.weight


def test_says_every_setting_that_gpt2_asks_for(tiny: Path) -> None:
    wanted = replace(config_of(TINY), qkv_bias=False, tie_weights=False)
    with pytest.raises(UserError) as caught:
        starting_model(wanted, START, SOURCE, Gpt2(source=str(tiny)))
    assert "model.qkv_bias is False and would have to be True" in str(caught.value)
    assert "model.tie_weights is False and would have to be True" in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_weights_that_cannot_be_had() -> None:
    with pytest.raises(UserError, match=r"cannot be had: 127\.0\.0\.1 cannot be reached"):
        starting_model(config_of(TINY), START, SOURCE, Gpt2(mirror="http://127.0.0.1:1"))
