"""The two ways to act: writing code, and calling tools."""
