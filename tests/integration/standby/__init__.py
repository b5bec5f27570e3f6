"""Standby: containers that sleep as restored, frozen processes, with their memory on disk and their sockets alive."""
