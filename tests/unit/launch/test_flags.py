"""The command line that containerd calls a shim with."""

import sys
import types

import pytest

from zeropod.launch.flags import ACTIONS, Flags, UsageError, main, parse

CALL = [
    *("-namespace", "k8s.io", "-address", "/run/containerd/containerd.sock"),
    *("-publish-binary", "/usr/bin/containerd", "-id", "web"),
]


def test_containerds_flags_are_kept_with_the_arguments_as_they_came() -> None:
    arguments = [*CALL, "-bundle", "/run/b", "-debug", "delete"]
    action, flags = parse(arguments)
    assert action == "delete"
    assert (flags.namespace, flags.address) == ("k8s.io", "/run/containerd/containerd.sock")
    assert (flags.publish_binary, flags.id, flags.bundle) == ("/usr/bin/containerd", "web", "/run/b")
    assert flags.debug
    assert flags.arguments == tuple(arguments)


def test_flags_are_written_as_go_allows() -> None:
    action, flags = parse(["--namespace=k8s.io", "-id=a=b", "-bundle=", "start"])
    assert (action, flags.namespace, flags.id, flags.bundle) == ("start", "k8s.io", "a=b", "")


def test_what_follows_the_action_is_no_flag() -> None:
    action, flags = parse([*CALL, "start", "-debug"])
    assert (action, flags.debug) == ("start", False)


def test_the_version_needs_nothing_else() -> None:
    assert parse(["-v"])[0] == "version"


def test_the_information_needs_no_container() -> None:
    assert parse(["-info"])[0] == "info"
    assert parse(["-info", "-namespace", "k8s.io"])[1].namespace == "k8s.io"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing is not an action"),
        (["-id", "web"], "nothing is not an action"),
        ([*CALL, "restart"], "restart is not an action"),
        (["-colour", "start"], "flag -colour is unknown"),
        (["-namespace", "k8s.io", "start"], "start needs -namespace and -id"),
        (["-id", "web", "delete"], "delete needs -namespace and -id"),
        ([*CALL, "-bundle"], "nothing is not an action"),
    ],
)
def test_a_call_that_is_not_containerds_is_refused(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(arguments)


def test_a_usage_error_is_said_on_stderr_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("containerd-shim-zeropod-v2: nothing is not an action: one of delete, ")


def test_an_action_gets_the_flags_and_gives_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Flags] = []

    def action(flags: Flags) -> int:
        received.append(flags)
        return 7

    module = types.ModuleType("zeropod_action")
    module.__dict__["main"] = action
    monkeypatch.setitem(sys.modules, "zeropod_action", module)
    monkeypatch.setitem(ACTIONS, "start", "zeropod_action")
    assert main([*CALL, "start"]) == 7
    assert received[0].id == "web"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-v"]) == 0
    assert capsys.readouterr().out.startswith("containerd-shim-zeropod-v2 ")
