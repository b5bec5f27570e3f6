"""Where the memory of a sleeping container goes: to swap, to zeropod's page store, or nowhere.

`backend` is their common interface; `choice` decides which one a container gets.
"""
