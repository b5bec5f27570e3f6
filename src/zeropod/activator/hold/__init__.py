"""What is held for a container that cannot answer: duplicates of what it has open, watched and left as it is."""
