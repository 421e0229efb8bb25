"""Where the code of a code agent runs: one protocol, several walls."""
