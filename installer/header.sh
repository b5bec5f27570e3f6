#!/bin/sh
# zeropod: a shell script that starts Python, followed by a zip archive of Python modules. See zeropod --help.
tree=@TREE@
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$python" >/dev/null || continue
    # Unpacked by an earlier run, and ours: start there, which is twice as quick. What looks whether others could have
    # changed it is in this file (tree_check.py), and not in what it looks at.
    [ -O "$tree" ] && exec "$python" -I -S -c @CHECK@ "$tree" "$0" "$@"
    exec "$python" -I -S "$0" "$@"
done
echo "zeropod: needs Python 3.11 or newer, and found no python3 on PATH" >&2
exit 127
