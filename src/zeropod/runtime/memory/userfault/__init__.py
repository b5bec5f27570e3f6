"""The page store: moves the memory of a sleeping process to files; page faults bring it back.

`eviction` has the order of a move. A few system calls only the process itself can make: for these, a thread of it is
borrowed. From the lowest layer up: `stopped`, `remote_calls`, `injection`, and `holding` for all processes of
a container.
"""
