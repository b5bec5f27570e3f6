"""What only the build knows; installer/pyz.py fills it in inside zeropod.pyz. A checkout is not built."""

# The directory that this build of zeropod.pyz unpacks itself into, named by the hash of its contents.
TREE: str | None = None
