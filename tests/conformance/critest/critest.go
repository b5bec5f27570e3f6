//go:build tools

// Keeps in go.mod what is built from it: critest, whose own package has only a test and cannot be imported, and what
// runs it in several processes.
package main

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
