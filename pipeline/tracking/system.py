"""The machine's load beside the losses, under the keys that MLflow's own monitor uses."""

from __future__ import annotations

import threading
from typing import Any

from pipeline.tracking.journal import Journal

INTERVAL = 10.0  # seconds


class SystemMonitor(threading.Thread):
    """Journals `system/*` every ten seconds until stopped; GPUs where `pynvml` is installed."""

    def __init__(self, journal: Journal, first_step: int) -> None:
        super().__init__(name="lossbook-system", daemon=True)
        self._journal = journal
        self._step = first_step
        self._stopped = threading.Event()

    def run(self) -> None:
        import psutil

        psutil.cpu_percent()  # the first call only starts the measurement
        gpus = _open_gpus()
        while not self._stopped.wait(INTERVAL):
            self._journal.append({"s": self._step, "m": {**machine(), **_gpu_metrics(gpus)}})
            self._step += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def machine() -> dict[str, float]:
    """CPU since the last call, and memory, of the whole machine."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        "system/system_memory_usage_percentage": round(100 * memory.used / memory.total, 1),
    }


def _open_gpus() -> list[Any]:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no package, no driver, no permission: NVML has an error for each
        return []


def _gpu_metrics(gpus: list[Any]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if gpus:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        for index, gpu in enumerate(gpus):
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            use = pynvml.nvmlDeviceGetUtilizationRates(gpu)
            metrics[f"system/gpu_{index}_utilization_percentage"] = float(use.gpu)
            metrics[f"system/gpu_{index}_memory_usage_megabytes"] = round(memory.used / 1e6, 1)
    return metrics
