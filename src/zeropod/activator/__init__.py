"""How the next connection of a sleeping container is waited for, and how the container gets it."""
