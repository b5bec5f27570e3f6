"""Benchmarks: ours and containerd's own runc shim side by side in one run, in the test node."""
