"""CRIU's options, its configuration, and what is made of its logs."""

from pathlib import Path

import pytest

from zeropod.runtime import criu
from zeropod.runtime.criu import checkpoint_options, configuration, explain, restore_options
from zeropod.runtime.errors import RuncError

FAILURE = RuncError("criu failed: type NOTIFY errno 0")

DUMP = """\
(0.000029) Version: 4.2.1 (gitid 0)
(0.001467) Will dump/restore TCP connections
(0.012345) Warn  (criu/kerndat.c:1219): $XDG_RUNTIME_DIR not set
(0.034181) Error (criu/sk-inet.c:191): inet: Unsupported proto 262 for socket 1a5f
(0.034201) ----------------------------------------
(0.034219) Error (criu/cr-dump.c:1653): Dump files (pid: 4711) failed with -1
(0.036780) Error (criu/cr-dump.c:2113): Dumping FAILED.
"""

RESTORE = """\
(00.010012)      1: Opening 0x0000000000 /usr/bin/redis-server
(00.010101)      1: Error (criu/files-reg.c:2150): Can't open file usr/bin/redis-server on restore: No such file
(00.010102)      1: Error (criu/files-reg.c:2150): Can't open file usr/bin/redis-server on restore: No such file
(00.010133)      1: Error (criu/mem.c:1394): `- Can't open vma
(00.010900) Error (criu/cr-restore.c:2557): Restoring FAILED.
"""


def explained(path: Path, text: str | bytes) -> str:
    log = path / "dump.log"
    log.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(explain(log, FAILURE))


def test_the_first_errors_of_a_dump_say_what_it_was(tmp_path: Path) -> None:
    said = explained(tmp_path, DUMP)
    assert said.startswith(
        f"{FAILURE}; CRIU said: Error (criu/sk-inet.c:191): inet: Unsupported proto 262 for socket 1a5f; "
    )
    assert "Warn" not in said


def test_the_errors_of_a_restore_have_the_number_of_the_process_before_them(tmp_path: Path) -> None:
    said = explained(tmp_path, RESTORE)
    assert said.count("Can't open file usr/bin/redis-server on restore: No such file") == 1
    assert "`- Can't open vma" in said


def test_what_follows_from_the_first_errors_is_left_out(tmp_path: Path) -> None:
    lines = [f"(0.00000{number}) Error (criu/x.c:1): error {number}" for number in range(9)]
    said = explained(tmp_path, "\n".join(lines))
    assert [f"error {number}" in said for number in range(9)] == [True] * 3 + [False] * 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing"),
        ("\n\n", "nothing"),
        ("(0.1) Version: 4.2.1\n(0.2) Running on node\n", "(0.2) Running on node"),
        (b"(0.1) Error (criu/x.c:1): \xff\xfe\n", "Error (criu/x.c:1): \ufffd\ufffd"),
    ],
)
def test_a_log_without_errors_has_its_last_line_repeated(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert explained(tmp_path, text) == f"{FAILURE}; CRIU said: {said}"


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = str(explain(tmp_path / "dump.log", FAILURE))
    assert said == f"{FAILURE} (CRIU left no log at {tmp_path}/dump.log)"


def test_a_dump_that_failed_while_it_ended_the_processes_is_a_dump(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    assert not criu.has_dumped(log)
    log.write_text("(00.08) Dumping finished\n(00.09) Unfreezing tasks into 1\n")
    assert not criu.has_dumped(log)
    log.write_text("(00.09) Unfreezing tasks into 2\n(00.09) \tUnseizing 54 into 2\n")
    assert criu.has_dumped(log)


# Options


def test_connections_survive_a_checkpoint_and_waiting_ones_stay_outside() -> None:
    assert {"--tcp-established", "--tcp-skip-in-flight"} <= set(checkpoint_options(tcp_established=True))


def test_only_a_lazy_restore_asks_for_a_pager() -> None:
    assert "--lazy-pages" in restore_options(lazy=True, tcp_established=True)
    assert "--lazy-pages" not in restore_options(lazy=False, tcp_established=True)


def test_what_a_checkpoint_may_leave_open_a_restore_finds_again() -> None:
    shared = {"--tcp-established", "--ext-unix-sk", "--file-locks"}
    assert shared <= set(checkpoint_options(tcp_established=True)) & set(
        restore_options(lazy=True, tcp_established=True)
    )


def test_the_users_own_configuration_comes_first() -> None:
    assert configuration("# mine\ntcp-close\n\n") == "# mine\ntcp-close\nnetwork-lock skip\nirmap-scan-path /.\n"


@pytest.mark.parametrize("own", ["", "\n", "  \n"])
def test_without_a_configuration_of_the_users_ours_is_all(own: str) -> None:
    assert configuration(own) == "network-lock skip\nirmap-scan-path /.\n"


def test_connections_that_are_not_wanted_back_are_closed_both_ways() -> None:
    assert "tcp-close" in configuration("", tcp_established=False).splitlines()
    assert "--tcp-established" not in checkpoint_options(tcp_established=False)
    assert "--tcp-established" not in restore_options(lazy=True, tcp_established=False)


def test_what_is_restored_for_standby_does_not_run() -> None:
    assert "leave-stopped" in configuration("", stopped=True).splitlines()
    assert "leave-stopped" not in configuration("")


def test_what_criu_says_in_passing_is_not_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_text(
        "(0.01) Error (criu/rlimit.c:33): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
        "(0.02) Error (criu/tty.c:1): tty: No idea\n"
    )
    assert str(criu.explain(log, RuntimeError("runc failed"))) == (
        "runc failed; CRIU said: Error (criu/tty.c:1): tty: No idea"
    )
