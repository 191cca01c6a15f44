"""What Slurm's `srun` puts into the environment of a task, in the names that torchrun gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.errors import UserError

PORTS = range(15_000, 30_000)  # where the ranks meet; systems give out higher ones
HOST = re.compile(r"((?:[\w.-]|\[[\d,-]+\])+)(?:,|$)")  # the first of `rack[2-3]n[01,05-06],gpu1`
TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?(?:,|$)")  # on each node, `8(x2),4`


def as_torchrun(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK and all that goes with it; nothing where `srun` has not started several tasks.

    The ranks meet on the step's first node, where task 0 is, at a port of the step's own, unless
    MASTER_ADDR and MASTER_PORT say otherwise.

    Raises:
        UserError: a variable is missing, or holds what Slurm does not write.
    """
    if environment.get("SLURM_STEP_NUM_TASKS", "1") == "1":  # a shell in an allocation
        return {}
    try:
        host = HOST.match(environment["SLURM_STEP_NODELIST"])
        counts = TASKS.findall(environment["SLURM_STEP_TASKS_PER_NODE"])
        tasks = [tasks for tasks, nodes in counts for _ in range(int(nodes or 1))]
        step = int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
        if host is None:
            raise ValueError(environment["SLURM_STEP_NODELIST"])
        return {
            "RANK": environment["SLURM_PROCID"],
            "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": environment["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": tasks[int(environment["SLURM_NODEID"])],
            "MASTER_ADDR": re.sub(r"\[(\d+)[^]]*\]", r"\1", host[1]),
            "MASTER_PORT": str(PORTS[step % len(PORTS)]),
            **{k: v for k, v in environment.items() if k in ("MASTER_ADDR", "MASTER_PORT")},
        }
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            "SLURM_STEP_NUM_TASKS: srun started several tasks, but not all that it says of them "
            f"can be read ({type(error).__name__}: {error})"
        ) from None
