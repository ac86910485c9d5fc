"""Scenarios in a stranger's own tests: what stands behind the pytest plugin, usable without pytest."""
