"""The report of a run: its model here, its renderers beside it."""

from scenarios.record.model import SCHEMA, Report, Scenario, decode, encode, write

__all__ = ["SCHEMA", "Report", "Scenario", "decode", "encode", "write"]
