# Run these with ./justw RECIPE: it brings `just` itself and everything that the recipes need.

set positional-arguments
set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() / "build/venv/bin:" + env("PATH")
# What the tools remember goes where everything else goes that is not committed.
export RUFF_CACHE_DIR := justfile_directory() / "build/cache/ruff"
export MYPY_CACHE_DIR := justfile_directory() / "build/cache/mypy"
export HYPOTHESIS_STORAGE_DIRECTORY := justfile_directory() / "build/cache/hypothesis"
# In the test node, Python that finds the product's modules in the checkout. The node names only its own and the tests',
# so that nothing finds the product by chance; pytest has both from pyproject.toml.
in_node := "env PYTHONPATH=/node/site:/src:/src/src python3"

# List the recipes
[private]
default:
    @just --list --unsorted

# Build build/zeropod.pyz, the one file that runs on a node
build:
    python installer/pyz.py --output build/zeropod.pyz

# Build build/bundle, what `zeropod.pyz installer` installs a node from, out of the test node's Debian (root)
bundle: build
    rm -rf build/bundle
    tests/node/enter python3 /src/installer/bundle.py --pyz /src/build/zeropod.pyz --output /src/build/bundle

# Build the node image, and bring it to nodes: ARGS are `kind`, `k3s` or a name in a registry, and options of the builder's
image *ARGS: build
    python installer/image.py "$@"

# Two pods go to sleep and wake up on a throw-away node (root)
demo *ARGS: build
    tests/node/enter {{ in_node }} /src/tests/demo/demo.py "$@"

# Unit tests and those of the test node here, then integration tests in it (root); with ARGS just the latter, with these
test *ARGS: build
    if (($#)); then tests/node/enter python3 -m pytest /src/tests/integration "$@"; else tests/all; fi

# Kills of every part at hundreds of its system calls, and hundreds of cycles under stress, an hour; ARGS go to pytest (root)
test-long *ARGS: build
    tests/node/enter python3 -m pytest --long \
        /src/tests/integration/kills /src/tests/integration/memory/test_stress.py "$@"

# Integration tests on containerd 1.7 instead of 2.x; ARGS go to pytest (root)
test-older *ARGS: build
    tests/node/enter --containerd-1.7 python3 -m pytest /src/tests/integration "$@"

# Integration tests in a virtual machine, with systemd, cgroup v2 and all capabilities; ARGS go to pytest (root)
test-vm *ARGS: build
    tests/node/enter --vm --timeout {{ env("VM_TIMEOUT", "14400") }} \
        python3 -m pytest /src/tests/integration --timeout 1200 "$@"

# The same on containerd 1.7 (root)
test-vm-older *ARGS: build
    tests/node/enter --vm --timeout {{ env("VM_TIMEOUT", "14400") }} --containerd-1.7 \
        python3 -m pytest /src/tests/integration --timeout 1200 "$@"

# Tests in a Kubernetes of one test node, which has zeropod by its DaemonSet; ARGS go to pytest (root)
test-cluster *ARGS: build
    tests/node/enter --cluster tests/cluster/all "$@"

# A short selection of the same on the oldest Kubernetes that is supported; ARGS go to pytest (root)
test-cluster-oldest *ARGS: build
    tests/node/enter --oldest --cluster python3 -m pytest -n 4 --dist worksteal @/src/tests/cluster/short "$@"

# critest, the CRI's own suite, with zeropod and with runc in the same test node; ARGS go to pytest (root)
critest *ARGS: build
    tests/node/enter --suite python3 -m pytest /src/tests/conformance "$@"

# Kubernetes' own tests of its nodes with both, and docs/conformance.md from them; ARGS such as --focus REGEX (root)
conformance *ARGS: build
    #!/usr/bin/env bash
    set -uo pipefail
    status=0
    tests/node/enter --suite --cluster {{ in_node }} -m tests.conformance.kubernetes "$@" || status=$?
    python docs/conformance.py && exit "$status"

# 300 pods on two nodes that sleep and wake at random for five minutes, half an hour in all; ARGS go to pytest (root)
test-cluster-long *ARGS: build
    tests/node/enter --cluster 2 python3 -m pytest --long -s tests/cluster/test_soak.py "$@"

# What a machine passes through and leaves behind, then a short selection of test-vm (root)
test-vm-short: build
    #!/usr/bin/env bash
    set -uo pipefail
    status=0
    # As in tests/all: what fails is run once more, with nothing beside it.
    machine=(env ZEROPOD_TEST_VM=1 python -m pytest -o cache_dir=build/cache/pytest-vm tests/node/vm)
    "${machine[@]}" || "${machine[@]}" --last-failed --last-failed-no-failures none || status=$?
    selected="python3 -m pytest --timeout 1200 --durations 0 @/src/tests/node/vm/short"
    again="echo 'once more, what has failed'; $selected --last-failed --last-failed-no-failures none"
    tests/node/enter --vm --timeout 2400 sh -c "$selected || { [ \$? = 1 ] && { $again; }; }" || status=$?
    exit "$status"

# What applications sleep and wake in the test node, and the table of docs/compatibility.md from it; ARGS go to pytest (root)
compat *ARGS: build
    #!/usr/bin/env bash
    set -uo pipefail
    status=0
    tests/node/enter --applications python3 -m pytest /src/tests/integration/compat "$@" || status=$?
    python docs/compatibility.py && exit "$status"

# The same in a virtual machine, for all applications (root)
compat-vm *ARGS: build
    #!/usr/bin/env bash
    set -uo pipefail
    status=0
    tests/node/enter --vm --timeout {{ env("VM_TIMEOUT", "14400") }} \
        python3 -m pytest /src/tests/integration/compat --timeout 1200 "$@" || status=$?
    python docs/compatibility.py && exit "$status"

# Unit tests alone; ARGS go to pytest
unit *ARGS:
    python -m pytest "$@"

# Formatting, lint, types and import contracts
lint:
    ruff check
    ruff format --check
    mypy
    PYTHONPATH=src lint-imports --cache-dir build/cache/import-linter

# Format and fix what can be fixed
fmt:
    ruff check --fix
    ruff format

# Measure, in the test node, and write build/bench.json; --quick takes less than three minutes (root)
bench *ARGS: build
    tests/node/enter --applications {{ in_node }} /src/tests/bench/bench.py "$@"

# Draw build/bench.json as docs/images/*.png, for docs/performance.md
plots:
    #!/usr/bin/env bash
    set -euo pipefail
    if [[ "$(cat build/plots/.lock 2>/dev/null)" != "$(sha256sum installer/requirements-plots.lock)" ]]; then
        python -m venv --clear build/plots
        build/plots/bin/pip install --quiet --disable-pip-version-check --no-input --require-hashes \
            --only-binary :all: --requirement installer/requirements-plots.lock
        sha256sum installer/requirements-plots.lock >build/plots/.lock
    fi
    build/plots/bin/python tests/bench/plots.py
    python docs/generate.py

# Compile bpf/*.c to the bytecode that the package carries, in the test node (root)
bpf:
    tests/node/enter python3 /src/bpf/compile.py

# Run a command (a shell if none) in a fresh test node with containerd and zeropod; --vm: in a virtual machine (root)
node *CMD: build
    tests/node/enter "$@"

# A command (a shell if none) in such a Kubernetes, with kubectl; a 2 before it makes two nodes (root)
cluster *CMD: build
    tests/node/enter --cluster "$@"

# Generate src/zeropod/rpc/messages from proto/
proto:
    python proto/generate.py

# Write the generated parts of docs/ from the code
docs:
    python docs/generate.py

# Pin the newest dependencies anew
lock:
    #!/usr/bin/env bash
    set -euo pipefail
    python -m pip install --quiet uv
    pin=(uv pip compile --quiet --upgrade --python-platform linux --python-version 3.11 --generate-hashes
        --no-header --no-emit-index-url --no-annotate)
    "${pin[@]}" pyproject.toml --output-file installer/requirements.lock
    "${pin[@]}" pyproject.toml --group dev --constraint installer/requirements.lock \
        --output-file installer/requirements-dev.lock
    "${pin[@]}" --group plots --output-file installer/requirements-plots.lock

# Remove what was built, except the environment and the downloaded test node
clean:
    rm -rf build/zeropod.pyz build/wheels build/cache build/apt.log
    find . \( -path ./build -o -path ./.git \) -prune -o -type d \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis \) \
        -exec rm -rf {} +
