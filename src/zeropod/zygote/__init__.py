"""The zygote: one process that has imported everything a shim needs, and forks into shims.

The only package that knows CPython from the inside, and nothing depends on it: without a zygote a shim is a program of
its own, which takes 25 MB more. Read `server`, then `preparation`, then `idle_fork`.
"""
