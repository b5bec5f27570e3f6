"""From a kubeconfig to credentials: kubectl and programs that give tokens are scripts here."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from zeropod.cli.kubectl import login
from zeropod.cli.kubectl.kubeconfig import ConfigError, Exec, Target

VERSION = "client.authentication.k8s.io/v1"


def script(path: Path, *lines: str) -> Path:
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A kubectl on PATH whose kubeconfigs are JSON already."""
    programs = tmp_path / "bin"
    programs.mkdir()
    script(programs / "kubectl", 'for word; do case $word in --kubeconfig=*) exec cat "${word#*=}";; esac; done')
    return {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)}


def config(tmp_path: Path, user: Any, **cluster: Any) -> str:
    path = tmp_path / "config"
    inner = {"server": "https://api:6443", **cluster}
    content = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": inner}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(content))
    return str(path)


def program(command: str, **more: Any) -> Exec:
    return Exec(**{"command": command, "arguments": (), "environment": (), "version": VERSION, "interactive": False,
                   "cluster": None, "hint": "", **more})  # fmt: skip


def test_a_token(tmp_path: Path, environment: dict[str, str]) -> None:
    _, access = login.target(environment, config(tmp_path, {"token": "secret"}))
    assert (access.host, access.token()) == ("api:6443", "secret")


def test_a_token_in_a_file_is_read_each_time(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "token").write_text("one\n")
    _, access = login.target(environment, config(tmp_path, {"tokenFile": "token", "token": "other"}))
    assert access.token() == "one"
    (tmp_path / "token").write_text("two\n")
    assert access.token() == "two"


def test_no_token_goes_where_it_can_be_read(tmp_path: Path, environment: dict[str, str]) -> None:
    _, access = login.target(environment, config(tmp_path, {"token": "secret"}, server="http://localhost:8001"))
    assert (access.host, access.token()) == ("localhost:8001", "")


def test_a_program_is_told_and_asked(tmp_path: Path, environment: dict[str, str]) -> None:
    answer = json.dumps({"status": {"token": "given"}})
    script(tmp_path / "give", f'echo "$KUBERNETES_EXEC_INFO $1 $REGION" >{tmp_path}/told', f"echo '{answer}'")
    wanted = {
        "command": "./give", "args": ["now"], "env": [{"name": "REGION", "value": "eu"}], "apiVersion": VERSION,
        "provideClusterInfo": True,
    }  # fmt: skip
    _, access = login.target(environment, config(tmp_path, {"exec": wanted}))
    assert access.token() == "given"
    info, _, rest = (tmp_path / "told").read_text().strip().rpartition("} ")
    assert rest == "now eu"
    told = json.loads(info + "}")
    assert (told["apiVersion"], told["spec"]["cluster"]["server"]) == (VERSION, "https://api:6443")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["exit 3"], "failed with exit code 3"),
        (["echo token"], "did not answer in JSON"),
        (["echo '{}'"], "neither a token nor a certificate"),
        (["echo '[]'"], "neither a token nor a certificate"),
    ],
)
def test_a_program_that_gives_nothing(
    tmp_path: Path, environment: dict[str, str], lines: list[str], words: str
) -> None:
    made = script(tmp_path / "give", *lines)
    with pytest.raises(ConfigError, match=words):
        login.ask_program(program(str(made)), environment)


def test_a_program_that_is_not_there_says_how_to_get_it(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        login.ask_program(program("gke-login", hint="Install it."), environment)
    assert str(caught.value) == "getting credentials: exec: executable gke-login not found\n\nInstall it."


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigError, match="without its key"):
        login.with_credentials(Target("here", "api", 443), {"clientCertificateData": "x"})


def test_a_file_that_is_missing_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"unable to read .*/ca\.crt: no such file"):
        login.target(environment, config(tmp_path, {}, **{"certificate-authority": "ca.crt"}))


def test_what_is_no_certificate_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "ca.crt").write_text("none")
    with pytest.raises(ConfigError, match="the certificates of context here cannot be used"):
        login.target(environment, config(tmp_path, {}, **{"certificate-authority": "ca.crt"}))


def test_who_wants_no_check_gets_none() -> None:
    context = login.tls_context(Target("here", "api", 443, insecure=True))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert login.tls_context(Target("here", "api", 443)).verify_mode == ssl.CERT_REQUIRED


def test_without_kubectl_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kubectl, which reads kubeconfig, is not on PATH"):
        login.load({"PATH": str(tmp_path)}, str(tmp_path / "config"))


def test_what_kubectl_says_is_passed_on(tmp_path: Path, environment: dict[str, str]) -> None:
    script(tmp_path / "bin/kubectl", "echo 'error: no such file' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"^no such file$"):
        login.load(environment, str(tmp_path / "config"))


def test_without_any_configuration_nothing_is_chosen(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no context is chosen"):
        login.target(environment)
