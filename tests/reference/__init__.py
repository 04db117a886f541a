"""Plain versions of what the library computes fast: what the fast ones must equal."""
