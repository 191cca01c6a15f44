"""Files, digests, processes, progress and the network, none of which decides a result."""
