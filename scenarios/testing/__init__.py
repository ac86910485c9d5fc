"""Scenarios in users' own tests: the code behind the pytest plugin, also usable without pytest."""
