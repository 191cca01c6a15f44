"""The machine's load: its processors and memory, and its GPUs where `pynvml` is installed."""

from __future__ import annotations

from typing import Any

import psutil


class LoadMeter:
    """Reads the load of the whole machine."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call only starts the measurement
        self._gpus = _open_gpus()

    def read(self) -> dict[str, float]:
        """Processors since the last call, memory and GPUs now: percent, and megabytes."""
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
            "system_memory_usage_percentage": round(100 * memory.used / memory.total, 1),
            **_gpu_load(self._gpus),
        }


def _open_gpus() -> list[Any]:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no package, no driver, no permission: NVML has an error for each
        return []


def _gpu_load(gpus: list[Any]) -> dict[str, float]:
    load: dict[str, float] = {}
    if gpus:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        for index, gpu in enumerate(gpus):
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            use = pynvml.nvmlDeviceGetUtilizationRates(gpu)
            load[f"gpu_{index}_utilization_percentage"] = float(use.gpu)
            load[f"gpu_{index}_memory_usage_megabytes"] = round(memory.used / 1e6, 1)
    return load
