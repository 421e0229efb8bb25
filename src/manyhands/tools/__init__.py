"""Tools: what an agent can do. The base is in ``base``, ready-made ones are in ``builtin``."""
