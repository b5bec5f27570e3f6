"""STANDBY: a container that is frozen in place, and its memory."""
