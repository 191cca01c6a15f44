"""What a training step of the default model is made of: gradients, optimizer, averaging.

The time that one thread computes, so that other work on the machine counts little: gradients of a
batch, in bf16; a step of AdamW and one of Muon, which has AdamW in it; the average of the weights.
The parts take turns; what is shown is the median.

    python benchmarks/optimizers.py [--batch-size 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from pipeline.model.gpt import GPT, GPT2_VOCAB_SIZE, GPTConfig
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime
from pipeline.params import Train
from pipeline.training.optim import advance_average, build_optimizer
from pipeline.training.precision import WorkingCopy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = parts_of_a_step(given.batch_size)
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(given.rounds):
        for name, part in parts.items():
            started = time.thread_time()
            part()
            times[name].append(time.thread_time() - started)
    for name, seconds in times.items():
        print(f"{name:20}{statistics.median(seconds):8.3f} s")


def parts_of_a_step(batch_size: int) -> dict[str, Callable[[], object]]:
    """Each of them has run once, so that memory is there."""
    model = GPT(GPTConfig())
    runtime = Runtime(torch.device("cpu"), bf16=True)
    working = WorkingCopy(model, runtime)
    objective = Objective(working.model, Train(), runtime.device).train()
    tokens = torch.randint(GPT2_VOCAB_SIZE, (batch_size, model.config.context_length + 1))

    def gradients() -> None:
        working.reset_gradients()
        with runtime.autocast():
            loss = objective(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        working.collect_gradients()

    gradients()
    adamw = build_optimizer(model, Train(ema_decay=0.99))
    muon = build_optimizer(model, Train(optimizer="muon"))
    for optimizer in (adamw, muon):
        optimizer.step()
    plain = build_optimizer(model, Train())
    plain.load_state_dict(adamw.state_dict())
    return {
        "gradients": gradients,
        "adamw": plain.step,
        "muon": muon.step,
        "average": lambda: advance_average(adamw),
    }


if __name__ == "__main__":
    main()
