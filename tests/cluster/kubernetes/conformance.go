//go:build tools

// Keeps in go.mod what else is built from it: Kubernetes' own tests, what runs them in parallel, and what their images run.
package main

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
	_ "k8s.io/kubernetes/test/images/nonewprivs"
)
