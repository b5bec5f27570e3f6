"""The commands and the daemon for a whole node: they find every shim by its socket and query it."""
