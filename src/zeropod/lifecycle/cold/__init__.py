"""COLD: a container whose processes have ended, and which CRIU has written to disk."""
