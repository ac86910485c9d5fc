"""The actor: the only place that imports torch, and only when a registry is really made."""
