"""`zeropod installer`: brings zeropod to a node and tells its containerd, or takes all of it away again.

What is there is looked at first (`facts`), then pure functions say what should be there (`contents`, `configure`), the
difference is a list of changes (`changes`), and that is shown, or made in one transaction that a failure undoes
(`transaction`). Kubernetes itself is never asked: what it has to know is in the manifests.
"""
