"""Brings an export to the node that takes it: in checksummed pieces, those first that something waits for."""
