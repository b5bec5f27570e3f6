"""When a container sleeps and wakes, and the steps of both.

Read `machine` first, then `controller`, `actions` and `suspend`.
"""
