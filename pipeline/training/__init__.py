"""The train stage: loop, optimizer, schedules, checkpoints, outputs."""
