"""From the file on disk, zeropod.pyz, to the first line of a mode: unpacking, and whether the result can be trusted.

Only the standard library is imported here: the rest may have to be unpacked first.
"""
