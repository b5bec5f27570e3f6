"""The Kubernetes side of the manager and of kubectl's plugin: a client of the API, and its users.

Not imported by a manager without a flag that needs the API.
"""
