"""A page that shows who sleeps: containers as lanes on a time line, memory given back, wakes, what keeps awake.

The manager serves it for its node, `kubectl zeropod dashboard` for a cluster; both fill a `History`, which is all that
the page knows. The browser's part is static/, read as it is: no build step, and nothing from another host.
"""
