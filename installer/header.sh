#!/bin/sh
# zeropod: a shell script that starts Python, followed by a zip archive of Python modules. See zeropod --help.
tree=@TREE@
case "$0 $*" in
*containerd-shim-zeropod-v2\ *\ start)
    # A process that is up does what `start` does before Python would be (zeropod/shim/door.py). Who gets no answer
    # starts Python, which does it, or says what is amiss.
    door=/run/zeropod/zygotes/${tree##*/}
    set -C # nobody can write to what is there: so a file is made by one alone, who may ask
    if [ -O "$door" ] && read -r spare <"$door" && door=$door.$spare &&
        [ -p "$door.answer" ] && [ -O "$door.answer" ] && { :; } >"$door.taken"; then
        # The FIFO of the answer is opened for both first, which never waits, but kept open for reading alone: so
        # reading it ends when who could write to it is dead.
        {
            exec 5>&- # among the redirections, bash would keep a copy
            printf '%-9d' $$ >&3
            read -r answer <&4
        } 3<>"$door.ask" 5<>"$door.answer" 4<"$door.answer" && printf '%s\n' "$answer" && exit
    fi 2>/dev/null
    ;;
esac
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$python" >/dev/null || continue
    # Unpacked by an earlier run, and ours: start there, which is twice as quick. What looks whether others could have
    # changed it is in this file (tree_check.py), and not in what it looks at.
    [ -O "$tree" ] && exec "$python" -I -S -c @CHECK@ "$tree" "$0" "$@"
    exec "$python" -I -S "$0" "$@"
done
echo "zeropod: needs Python 3.11 or newer, and there is no python3 on PATH" >&2
exit 127
