"""The kernel's own interfaces: thin, typed, without policy.

Each module wraps one facility (pidfd, namespaces, sock_diag, splice, bpf, nfnetlink) in the few calls that zeropod
needs. The layers above decide when to use them.

pyroute2 (0.9.7) was measured for netlink and not used. Imported in the zygote, it takes 0.8 MiB more in each of 20
shims (PSS), and 2.8 MiB more once a shim uses it; a shim may have 6 MiB. Each of its sockets runs an asyncio loop, with
four descriptors instead of one. Listing connections takes 0.60 ms instead of 0.23, opening a socket 0.56 ms instead of
0.03; both are on the way to sleep and to wake. It has no NFQUEUE, and entering a namespace is a single call of
setns(2).
"""
