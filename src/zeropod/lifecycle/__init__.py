"""When a container sleeps and wakes, and what follows.

Read `machine` first, then `controller`, `actions` and `suspend`.
"""
