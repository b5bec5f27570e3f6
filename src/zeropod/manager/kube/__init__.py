"""The Kubernetes side of the manager and of kubectl's plugin: a client of the API, and what goes through it.

Imported only by what needs the API: a manager without such a flag does without.
"""
