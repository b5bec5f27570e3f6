"""Whether a container is idle, judged by its traffic as the kernel reports it."""
