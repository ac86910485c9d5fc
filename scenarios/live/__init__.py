"""Endpoints as they are right now, in a terminal: `wedge watch`, and `wedge shell` to break them by hand."""
