"""What a container has written to its root file system: an archive of the overlay's upper layer, and back."""
