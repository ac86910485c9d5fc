"""The prober: it probes a server's endpoints on a fixed schedule, from a separate process."""

from scenarios.prober.handle import ProberHandle, soon

__all__ = ["ProberHandle", "soon"]
