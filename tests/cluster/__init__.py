"""A Kubernetes of one or two test nodes with zeropod installed as users install it, and the tests that run on it.

``start.py`` makes the cluster inside of the nodes that ``tests/node/enter --cluster`` has made, then runs a command in
the first one: ``pki.py`` has the certificates, ``components.py`` what is started, ``services.py`` keeps it running,
``product.py`` installs zeropod, ``command.py`` runs what all of them run. For tests are ``kube.py``, the API, kubectl
and waiting, ``pods.py``, what is applied, and ``app.py``, what most pods run.
"""
