"""The dashboard page: a time line of each container, memory given back, wakes, and reasons for being awake.

The manager serves it for its node, `kubectl zeropod dashboard` for a cluster; both fill a `History`, the page's only
source. The browser's part is static/, served as it is: no build step, and nothing from another host.
"""
