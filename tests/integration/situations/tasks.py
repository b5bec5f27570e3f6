"""Situations of containers by themselves, made as `ctr run` does: a terminal, and the same id in two namespaces."""

import signal
import uuid
from collections.abc import Iterator

from tests.integration import node
from tests.integration.containerd import Containerd
from tests.integration.situations.scene import Scene, Situation


def terminal(scene: Scene) -> Iterator[None]:
    one = scene.task(terminal=True)
    one.task.resize(120, 40)
    one.tell("""
        lines, sizes = [], []
        def collect():
            for line in sys.stdin:
                lines.append(line.strip())
                print("read:", line.strip(), flush=True)
        threading.Thread(target=collect, daemon=True).start()
        signal.signal(signal.SIGWINCH, lambda *_: sizes.append(list(os.get_terminal_size(0))))
        settings = termios.tcgetattr(0)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(0, termios.TCSANOW, settings)
        settings = repr(termios.tcgetattr(0))
    """)
    yield
    one.sleeps_still()
    restores = one.status.restores
    stdin, stdout = one.task.streams.stdin, one.task.streams.stdout
    assert stdin is not None
    stdin.write(b"hello there\n")
    stdout.until(b"read: hello there")
    node.until(lambda: one.status.restores == restores + 1, "what is typed wakes")
    assert one.tell("[lines, list(os.get_terminal_size(0)), os.isatty(0), repr(termios.tcgetattr(0)) == settings]") == [
        ["hello there"],
        [120, 40],
        True,
        True,
    ]
    one.standby()
    one.task.resize(100, 30)
    stdin.write(b"again\n")
    stdout.until(b"read: again")
    assert one.tell("[lines, list(os.get_terminal_size(0)), sizes]") == [
        ["hello there", "again"],
        [100, 30],
        [[100, 30]],
    ]
    one.is_whole()


def same_id_in_two_namespaces(scene: Scene) -> Iterator[None]:
    name = f"same-{uuid.uuid4().hex[:12]}"
    elsewhere = scene.stack.enter_context(Containerd("k8s.io"))
    one, two = scene.task(id=name), scene.task(elsewhere, name)
    one.tell('who = "one"')
    two.tell('who = "two"')
    yield
    one.sleeps_still()
    two.sleeps_still()
    assert one.tell("who") == "one"
    two.sleeps_still()
    assert two.tell("who") == "two"
    one.is_whole()
    two.is_whole()
    one.standby()
    two.standby()
    two.task.kill(signal.SIGKILL)
    assert two.task.wait() == 128 + signal.SIGKILL
    two.task.delete()
    one.is_whole()
    assert one.tell("who") == "one"


SITUATIONS: tuple[Situation, ...] = (terminal, same_id_in_two_namespaces)
