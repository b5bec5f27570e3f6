"""Duplicates of the open files of a container that cannot answer: watched, never read."""
