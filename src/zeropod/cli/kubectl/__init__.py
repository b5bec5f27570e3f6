"""`kubectl zeropod`: what the custom resources say of a cluster's pods, and requests to sleep and wake.

kubectl runs any program on PATH that is called kubectl-NAME; this one is zeropod.pyz under that name. Exit codes and
words of errors are kubectl's.
"""
