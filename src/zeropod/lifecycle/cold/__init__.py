"""COLD: a container that was ended, and is on disk by CRIU."""
