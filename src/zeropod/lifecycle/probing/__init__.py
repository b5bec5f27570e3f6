"""Health probes of a container that sleeps."""
