"""`kubectl zeropod`: shows the state of a cluster's pods from the custom resources, and requests sleeps and wakes.

kubectl runs any program on PATH that is called kubectl-NAME; this one is zeropod.pyz under that name. Exit codes and
error messages are like kubectl's.
"""
