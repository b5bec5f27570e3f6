"""Exports: sleeping containers on disk, complete enough to come back elsewhere, or here after a restart."""
