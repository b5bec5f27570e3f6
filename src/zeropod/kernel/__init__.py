"""The kernel's own interfaces: thin, typed, without policy.

Every module here wraps one facility (pidfd, namespaces, sock_diag, splice, bpf, nfnetlink) in
the few calls that zeropod makes of it. Deciding when to use which belongs to the layers above.

No pyroute2: importing it costs a shim process 0.25 s and 33 MB, and one such process runs for
every pod; the three netlink families used here need about a hundred lines each.
"""
