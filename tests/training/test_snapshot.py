"""Copies at rest: what training changes afterwards is not in them, and their memory is reused."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.training.snapshot import HostCopies, at_rest


def test_a_copy_at_rest_is_of_its_time() -> None:
    weights = {"w": torch.ones(3), "b": torch.zeros(2, 2).T}
    kept = at_rest(weights, may_stay=True)
    weights["w"].add_(1)
    assert torch.equal(kept["w"], torch.ones(3))
    assert kept["b"].stride() == weights["b"].stride()
    assert at_rest({}, may_stay=True) == {}


def test_host_copies_are_written_over_and_what_is_at_rest_is_not_copied() -> None:
    copies = HostCopies(torch.device("cpu"))
    best = {"w": torch.zeros(3)}
    state: dict[str, Any] = {"state": {0: {"m": torch.ones(3), "step": torch.tensor(1.0)}}}
    groups = [{"lr": 0.1, "betas": (0.9, 0.99)}]
    state["groups"] = groups
    weights = {"w": torch.full((3,), 5.0)}
    first = copies.take({"optimizer": state, "weights": weights}, at_rest={"best": best})
    copies.wait()
    copies.protect()
    assert first["best"] is best
    assert first["optimizer"]["groups"] == groups
    assert first["optimizer"]["groups"] is not groups
    moment, weight = first["optimizer"]["state"][0]["m"], first["weights"]["w"]

    state["state"][0]["m"].add_(1)
    weights["w"].add_(1)
    assert (moment.tolist(), weight.tolist()) == ([1.0] * 3, [5.0] * 3)
    second = copies.take({"optimizer": state}, at_rest={"best": best})
    assert "weights" not in second
    assert second["optimizer"]["state"][0]["m"] is moment
    assert moment.tolist() == [2.0] * 3
    third = copies.take({"optimizer": state, "weights": weights}, at_rest={})
    assert third["weights"]["w"] is weight, "its memory was kept in between"
    assert weight.tolist() == [6.0] * 3

    weights["w"] = torch.zeros(4)  # does not fit
    assert copies.take({"weights": weights}, at_rest={})["weights"]["w"].tolist() == [0.0] * 4
