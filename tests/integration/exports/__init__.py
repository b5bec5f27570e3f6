"""Containers that leave an export, and come back from it as others: with another id, in another sandbox."""
