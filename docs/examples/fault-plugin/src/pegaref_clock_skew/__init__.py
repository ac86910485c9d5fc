"""Faults of this package; each is one file, named in the entry-point group `pegaref.faults`."""
