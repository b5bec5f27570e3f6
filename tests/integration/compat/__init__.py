"""The compatibility suite: what kinds of applications sleep and wake, seen with each of them.

``applications`` is the table of them, ``programs`` what the small ones run, ``talk`` how each is asked, ``record`` what
was seen, from which ``docs/compatibility.py`` makes the table for users. `./justw compat`, `./justw compat-vm`.
"""
