"""A Kubernetes of one or two test nodes with zeropod installed as users install it, and the tests that run on it.

``start.py`` makes the cluster inside of the nodes that ``tests/node/enter --cluster`` has made, then runs a command in
the first one: ``pki.py`` has the certificates, ``components.py`` what is started, ``services.py`` keeps it running,
``product.py`` installs zeropod. The rest is for tests: ``kube.py`` is kubectl and waiting, ``pods.py`` what is applied.
"""
