"""What one `log_metrics` call costs the training thread: Lossbook beside MLflow itself.

Each runs against a fresh SQLite store, in a process of its own; between two calls a matrix product
keeps the processor as busy as a small training step does. Medians, the slowest in a hundred, the
share of the whole time that the calls took, and how many points the store has in the end.

    python benchmarks/tracking.py
"""

from __future__ import annotations

import sys

if sys.path[0].endswith("benchmarks"):  # whose tokenize.py is not Python's
    sys.path.pop(0)

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

POINTS = {"lossbook": 2000, "mlflow, asynchronous": 2000, "mlflow, synchronous": 300}
METRICS = ("train/loss", "train/learning_rate", "train/tokens_per_second")
SIZE = 400  # of the square matrices; milliseconds a step

Log = Callable[[dict[str, float], int], object]


def main() -> None:
    print(f"one call of log_metrics with {len(METRICS)} metrics, in microseconds")
    print(f"{'':24}{'median':>10}{'p99':>10}{'share':>10}{'arrived':>10}")
    for name in POINTS:
        result = measured_apart(name)
        times = result["times"]
        median, high = statistics.median(times), sorted(times)[int(0.99 * len(times))]
        share = sum(times) / result["seconds"]
        print(
            f"{name:24}{median * 1e6:10.1f}{high * 1e6:10.1f}{share:10.2%}{result['arrived']:10.1%}"
        )


def measured_apart(name: str) -> dict[str, Any]:
    """Run one of them in a new process and an empty repository."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DVC_ROOT": folder, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, __file__, name]
        done = subprocess.run(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str) -> dict[str, Any]:
    """Log all points, timing each call; what came of them."""
    if name == "lossbook":
        return with_lossbook()
    return with_mlflow(synchronous=name.endswith(", synchronous"))


def timed(log: Log, count: int) -> dict[str, Any]:
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    times = []
    begin = time.perf_counter()
    for step in range(count):
        metrics = dict.fromkeys(METRICS, 1.0 / (step + 1))
        start = time.perf_counter()
        log(metrics, step)
        times.append(time.perf_counter() - start)
        _ = matrix @ matrix @ matrix
    return {"times": times, "seconds": time.perf_counter() - begin}


def with_lossbook() -> dict[str, Any]:
    from pipeline.tracking.run import start_run
    from pipeline.tracking.store import connect

    count = POINTS["lossbook"]
    with start_run("bench", experiment="bench") as run:
        result = timed(lambda metrics, step: run.log_metrics(metrics, step=step), count)
    store = connect()
    found = store.find_run(run.key)
    assert found is not None
    points = store.client.get_metric_history(found.info.run_id, METRICS[0])
    return {**result, "arrived": len(points) / count}


def with_mlflow(synchronous: bool) -> dict[str, Any]:
    import mlflow

    from pipeline.tracking.store import connect

    store = connect()  # the same store, in the same journal mode
    mlflow.set_tracking_uri(store.uri)
    count = POINTS["mlflow, synchronous" if synchronous else "mlflow, asynchronous"]

    def log(metrics: dict[str, float], step: int) -> None:
        mlflow.log_metrics(metrics, step=step, synchronous=synchronous)

    with mlflow.start_run(experiment_id=store.experiment_id("bench")) as run:
        result = timed(log, count)
        mlflow.flush_async_logging()
    points = store.client.get_metric_history(run.info.run_id, METRICS[0])
    return {**result, "arrived": len(points) / count}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
