"""Suites that others have written, run with zeropod and with runc on one test node: the CRI's and Kubernetes' own."""
