"""From the file zeropod.pyz to the first line of a mode: unpacking it, and checking its permissions.

Only the standard library is imported here: the rest may have to be unpacked first.
"""
