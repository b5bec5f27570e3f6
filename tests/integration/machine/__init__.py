"""What only a machine of its own has: see tests/node/vm."""
