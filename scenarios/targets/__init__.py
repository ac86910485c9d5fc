"""Servers that come with `wedge`, each a target file, and the programs that some of them are."""
