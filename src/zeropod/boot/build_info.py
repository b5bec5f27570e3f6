"""Data of the build; installer/pyz.py fills it in inside zeropod.pyz. Empty in a checkout."""

# The directory that this build of zeropod.pyz unpacks itself into, named by the hash of its contents.
TREE: str | None = None
