"""STANDBY: a container that is frozen where it is."""
