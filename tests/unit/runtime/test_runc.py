"""runc's command lines, taken down by a script that stands in for it, and what becomes of its errors."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from zeropod import paths
from zeropod.runtime.command import Completed
from zeropod.runtime.errors import RuncError
from zeropod.runtime.programs import environment
from zeropod.runtime.runc import Runc
from zeropod.runtime.stdio import Streams

SCRIPT = """#!/bin/sh
log=$4
for argument; do echo "$argument"; done >{place}/arguments
if [ -e {place}/script ]; then . {place}/script; fi
"""


class Fake:
    """A runc that does what `script` says; {log} in it is the log that it was told to write."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.binary = place / "runc"
        self.bundle = place / "bundle"
        self.bundle.mkdir()
        self.binary.write_text(SCRIPT.format(place=place))
        self.binary.chmod(0o755)

    def will(self, script: str) -> None:
        (self.place / "script").write_text(script.replace("{log}", '"$log"'))

    def logs(self, *entries: object, status: int = 1) -> None:
        lines = "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
        self.will(f"cat >>{{log}} <<'END'\n{lines}\nEND\nexit {status}\n")

    @property
    def arguments(self) -> list[str]:
        return (self.place / "arguments").read_text().splitlines()

    @property
    def command(self) -> list[str]:
        """The arguments after those that are the same for all commands."""
        common, log = ["--root", "/run/containerd/runc/k8s.io", "--log"], Path(self.arguments[3])
        assert self.arguments[:3] == common
        assert self.arguments[4:6] == ["--log-format", "json"]
        assert log.parent == self.bundle
        return self.arguments[6:]

    def runc(self, **options: object) -> Runc:
        return Runc("k8s.io", self.bundle, str(self.binary), **options)  # type: ignore[arg-type]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


PID, CONSOLE, SPEC = Path("/b/pid"), Path("/b/console"), Path("/b/process.json")
IMAGES, WORK = Path("/i/images"), Path("/i/work")


async def test_creating(fake: Fake) -> None:
    await fake.runc().create("web", Streams(), PID)
    assert fake.command == ["create", "--bundle", str(fake.bundle), "--pid-file", "/b/pid", "web"]


async def test_creating_with_everything_that_containerd_can_ask_for(fake: Fake) -> None:
    runc = fake.runc(root="/run/other", systemd_cgroup=True, no_pivot=True, no_new_keyring=True)
    await runc.create("web", Streams(), PID, CONSOLE)
    log = ["--log", fake.arguments[3], "--log-format", "json"]
    options = ["--bundle", str(fake.bundle), "--pid-file", "/b/pid", "--console-socket", "/b/console"]
    expected = ["--root", "/run/other/k8s.io", *log, "--systemd-cgroup", "create"]
    assert fake.arguments == [*expected, *options, "--no-pivot", "--no-new-keyring", "web"]


async def test_starting(fake: Fake) -> None:
    await fake.runc().start("web")
    assert fake.command == ["start", "web"]


async def test_executing(fake: Fake) -> None:
    await fake.runc().execute("web", SPEC, Streams(), PID)
    options = ["--process", "/b/process.json", "--pid-file", "/b/pid", "--detach"]
    assert fake.command == ["exec", *options, "web"]
    await fake.runc().execute("web", SPEC, Streams(), PID, CONSOLE)
    assert fake.command == ["exec", *options, "--console-socket", "/b/console", "web"]


async def test_killing(fake: Fake) -> None:
    await fake.runc().kill("web", 15)
    assert fake.command == ["kill", "web", "15"]
    await fake.runc().kill("web", 9, everyone=True)
    assert fake.command == ["kill", "--all", "web", "9"]


async def test_deleting(fake: Fake) -> None:
    await fake.runc().delete("web")
    assert fake.command == ["delete", "web"]
    await fake.runc().delete("web", force=True)
    assert fake.command == ["delete", "--force", "web"]


async def test_pausing_and_resuming(fake: Fake) -> None:
    await fake.runc().pause("web")
    assert fake.command == ["pause", "web"]
    await fake.runc().resume("web")
    assert fake.command == ["resume", "web"]


async def test_new_limits_are_fed_to_it(fake: Fake) -> None:
    fake.will(f"cat >{fake.place}/fed")
    await fake.runc().update("web", b'{"pids": {"limit": 5}}')
    assert fake.command == ["update", "--resources", "-", "web"]
    assert (fake.place / "fed").read_bytes() == b'{"pids": {"limit": 5}}'


async def test_checkpointing(fake: Fake) -> None:
    await fake.runc().checkpoint("web", IMAGES, WORK, ["--tcp-established"], timeout=10)
    paths = ["--image-path", "/i/images", "--work-path", "/i/work"]
    assert fake.command == ["checkpoint", *paths, "--tcp-established", "web"]


async def test_restoring(fake: Fake) -> None:
    await fake.runc().restore("web", IMAGES, WORK, Streams(), PID, ["--lazy-pages"], timeout=10)
    creation = ["--bundle", str(fake.bundle), "--pid-file", "/b/pid"]
    paths = ["--detach", "--image-path", "/i/images", "--work-path", "/i/work"]
    assert fake.command == ["restore", *creation, *paths, "--lazy-pages", "web"]


async def test_the_oom_killer_spares_a_criu_that_dumps_and_meets_one_that_restores_like_any_other(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[int | None] = []

    async def run(*_: object, oom_score_adj: int | None, **__: object) -> Completed:
        scores.append(oom_score_adj)
        return Completed(0, b"")

    monkeypatch.setattr("zeropod.runtime.command.run", run)
    await fake.runc().checkpoint("web", IMAGES, WORK, [], timeout=10)
    await fake.runc().restore("web", IMAGES, WORK, Streams(), PID, [], timeout=10)
    assert scores == [None, 0]


async def test_the_process_gets_its_streams_and_runs_in_the_bundle(fake: Fake) -> None:
    fake.will("pwd; cat; echo err >&2")
    pipes = [os.pipe() for _ in range(3)]
    (stdin, feed), (out, stdout), (err, stderr) = pipes
    os.write(feed, b"in\n")
    os.close(feed)
    await fake.runc().create("web", Streams(stdin, stdout, stderr), PID)
    assert os.read(out, 1000).decode() == f"{fake.bundle}\nin\n"
    assert os.read(err, 1000) == b"err\n"
    for descriptor in (stdin, out, stdout, err, stderr):
        os.close(descriptor)


async def test_programs_of_the_installation_come_first(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    fake.will(f'echo "$PATH" >{fake.place}/path')
    await fake.runc().start("web")
    assert (fake.place / "path").read_text() == f"{paths.PROGRAMS}:/usr/bin:/bin\n"


async def test_an_empty_option_is_the_default() -> None:
    argv = Runc("moby", Path("/b"), binary="", root="")._argv(Path("/log"), "start", "web")
    assert argv[:3] == ["runc", "--root", "/run/containerd/runc/moby"]


# Errors


async def test_the_last_error_of_its_log_is_what_went_wrong(fake: Fake) -> None:
    fake.logs(
        {"level": "warning", "msg": "cgroup is strange"},
        {"level": "error", "msg": "first"},
        {"level": "error", "msg": "container does not exist", "time": "2026-01-01T00:00:00Z"},
        {"level": "info", "msg": "bye"},
    )
    with pytest.raises(RuncError) as failure:
        await fake.runc().start("web")
    assert str(failure.value) == "container does not exist"


@pytest.mark.parametrize("level", ["fatal", "panic"])
async def test_worse_than_errors_are_errors_too(fake: Fake, level: str) -> None:
    fake.logs({"level": level, "msg": "nsexec failed"})
    with pytest.raises(RuncError, match=r"^nsexec failed$"):
        await fake.runc().start("web")


async def test_errors_of_earlier_commands_do_not_count(fake: Fake) -> None:
    fake.logs({"level": "error", "msg": "old"})
    with pytest.raises(RuncError, match="old"):
        await fake.runc().start("web")
    fake.will("exit 4")
    with pytest.raises(RuncError, match=r"runc start exited with status 4$"):
        await fake.runc().start("web")


async def test_of_two_commands_at_once_each_has_its_own_error(fake: Fake) -> None:
    said = '{"level": "error", "msg": "of %s"}\\n'
    fake.will(f"""
case $* in
*start*) sleep 0.2 ;;
*) printf '{said}' "$7" >>{{log}}; exit 1 ;;
esac
exit 4
""")

    async def fail(words: str, ask: Callable[[str], Awaitable[None]]) -> None:
        with pytest.raises(RuncError, match=words):
            await ask("web")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, "start exited with status 4", fake.runc().start)
        await trio.sleep(0.05)
        nursery.start_soon(fail, "of pause", fake.runc().pause)


async def test_nothing_of_its_logs_is_left(fake: Fake) -> None:
    fake.logs({"level": "error", "msg": "old"})
    for _ in range(3):
        with pytest.raises(RuncError, match="old"):
            await fake.runc().start("web")
    fake.will("echo warning >>{log}")
    await fake.runc().start("web")
    assert os.listdir(fake.bundle) == []


async def test_a_warning_is_no_failure(fake: Fake) -> None:
    fake.logs({"level": "error", "msg": "a pity"}, status=0)
    await fake.runc().start("web")


async def test_lines_that_a_killed_runc_left_half_written_do_not_matter(fake: Fake) -> None:
    fake.logs('{"level": "error", "m', "[]", "", {"level": "error", "msg": "whole"}, '{"level"')
    with pytest.raises(RuncError, match=r"^whole$"):
        await fake.runc().start("web")


async def test_without_a_log_the_command_and_its_status_are_named(fake: Fake) -> None:
    fake.will("kill -KILL $$")
    with pytest.raises(RuncError, match=r"/runc delete exited with status 137$"):
        await fake.runc().delete("web")


async def test_one_that_hangs_is_killed_and_named(fake: Fake) -> None:
    fake.will("exec sleep 1000")
    with pytest.raises(RuncError, match=r"checkpoint: .*did not end within 0\.05 s and was killed"):
        await fake.runc().checkpoint("web", IMAGES, WORK, [], timeout=0.05)


async def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuncError, match="/nonexistent/runc start: "):
        await Runc("k8s.io", tmp_path, binary="/nonexistent/runc").start("web")


def test_what_systemd_says_to_containerd_is_not_for_runc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("KEPT", "yes")
    found = environment()
    assert "NOTIFY_SOCKET" not in found
    assert found["KEPT"] == "yes"
