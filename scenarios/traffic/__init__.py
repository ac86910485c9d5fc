"""Traffic: the calls that touch the GPU, and the clients that stand beside a server."""
