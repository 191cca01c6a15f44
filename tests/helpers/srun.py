"""A small `srun`: so many tasks a node, all nodes being this machine, with Slurm's environment."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--ntasks-per-node", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    nodes, per_node = options.nodes, options.ntasks_per_node
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": f"127.0.0.[1-{nodes}]",
        "SLURM_STEP_NUM_TASKS": str(nodes * per_node),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{nodes})",
    }
    tasks = [
        subprocess.Popen(
            options.command,
            env={
                **os.environ,
                **step,
                "SLURM_PROCID": str(node * per_node + local),
                "SLURM_LOCALID": str(local),
                "SLURM_NODEID": str(node),
            },
            start_new_session=True,
        )
        for node in range(nodes)
        for local in range(per_node)
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
    statuses = [task.wait() for task in tasks]
    sys.exit(max(status if status >= 0 else 128 - status for status in statuses))


if __name__ == "__main__":
    main()
