"""Everything that keeps a container asleep is killed, at every step: data is right, or the end is reported."""
