"""Training on several processes: ranks, rendezvous, launch, DDP and FSDP2."""
