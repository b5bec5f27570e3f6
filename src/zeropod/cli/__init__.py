"""Commands for people that reach a cluster by its API alone."""
