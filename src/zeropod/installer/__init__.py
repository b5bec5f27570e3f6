"""`zeropod installer`: installs zeropod on a node and in its containerd's configuration, or removes it again.

It examines the node (`facts`); pure functions compute what should be there (`contents`, `configure`); the difference is
a list of changes (`changes`), which is shown, or carried out in one transaction that a failure undoes (`transaction`).
It does not contact Kubernetes: the manifests have all that Kubernetes needs.
"""
