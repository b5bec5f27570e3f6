"""The page store: moves the memory of a sleeping process to files, to be brought back by page faults.

`eviction` has the order of a move. For the few calls that only the process itself can make, it borrows one of the
process's threads. From the lowest layer up: `stopped`, `remote_calls`, `injection`, and `holding` for all processes of
a container.
"""
