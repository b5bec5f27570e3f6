"""Generated protobuf messages: containerd's, ttrpc's and zeropod's own.

Everything but this file is written by proto/generate.py from proto/; change it there. Import the modules one
by one, since each costs time to load.
"""
