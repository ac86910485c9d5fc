"""The control side of the actors: the handle that every handler goes through. Imports no torch."""
