"""The zygote: one process that has imported everything a shim needs, and forks into shims.

The only package that relies on internals of CPython. It is optional: without a zygote each shim is started as a
program, which takes 25 MB more. Read `server`, then `preparation`, then `idle_fork`.
"""
