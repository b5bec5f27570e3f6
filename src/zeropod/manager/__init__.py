"""The commands and the daemon for a whole node: they find each shim by its socket, and query it."""
