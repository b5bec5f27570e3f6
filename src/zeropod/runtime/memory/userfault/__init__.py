"""The page store's hold on a process: memory that is taken out of it while it sleeps, and faults that bring it back.

`eviction` has the order of a move. It borrows a thread of a process for the few calls that only the process itself can
make, from below: `stopped`, `remote_calls`, `injection`, and `holding` for all processes of a container.
"""
