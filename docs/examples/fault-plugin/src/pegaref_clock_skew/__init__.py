"""Faults of this package; each is one file, named in the entry-point group `faults.catalogue`."""
