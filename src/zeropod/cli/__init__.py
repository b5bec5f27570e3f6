"""Commands for users of a cluster, by its API alone."""
