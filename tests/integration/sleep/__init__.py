"""Sleep and wake on the real thing: redis, nginx and a Python server, put to sleep by the shim and woken by clients."""
