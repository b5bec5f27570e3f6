"""Where the memory of a sleeping container goes: to swap, to a page store of ours, or nowhere.

`backend` is what the three have in common; which one a container gets is `choice`'s decision.
"""
