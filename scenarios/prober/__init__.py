"""The prober: asks a server whether it is alive, on a fixed schedule, from a process of its own."""
