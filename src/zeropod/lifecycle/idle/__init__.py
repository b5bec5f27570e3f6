"""Whether a container is idle: what the kernel tells of its traffic, and what follows from it."""
