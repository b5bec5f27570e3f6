"""What looks at a whole node: finds every shim through its socket and asks it."""
