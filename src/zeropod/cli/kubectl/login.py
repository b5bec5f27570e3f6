"""From a kubeconfig to a connection: kubectl converts it to JSON, a program supplies credentials, a TLS context is
made."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from zeropod.cli.kubectl.kubeconfig import Config, ConfigError, Exec, Material, Target, files, merge, parse, resolve
from zeropod.manager.kube.access import SERVICE_ACCOUNT, Access, TlsAccess, in_cluster
from zeropod.manager.kube.errors import Unreachable

KUBECTLS = (("kubectl",), ("k3s", "kubectl"), ("microk8s", "kubectl"), ("oc",))
"""Names of kubectl; the first that exists reads the kubeconfig."""


@dataclass(frozen=True, slots=True)
class PlainAccess:
    """Over TCP without TLS, as to `kubectl proxy`."""

    address: str
    port: int

    @property
    def host(self) -> str:
        """Return the value of a request's Host header."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    async def connect(self) -> trio.abc.Stream:
        """Return a new connection. Raises Unreachable."""
        try:
            return await trio.open_tcp_stream(self.address, self.port)
        except OSError as error:
            raise Unreachable(f"the API server cannot be reached: {error}") from error

    def token(self) -> str:
        """Return no token: it would be sent in clear text."""
        return ""


def load(environment: Mapping[str, str], chosen: str = "") -> Config:
    """Return the merged content of all kubeconfig files; missing ones count as empty. Raises ConfigError."""
    there = [path for path in files(environment, chosen) if chosen or os.path.exists(path)]
    return merge(parse(_as_json(path, environment), path) for path in there)


def _as_json(path: str, environment: Mapping[str, str]) -> str:
    """Return a kubeconfig as JSON, converted by kubectl, which is always there when it runs a plugin. Raises
    ConfigError."""
    for program in KUBECTLS:
        if shutil.which(program[0], path=environment.get("PATH")) is None:
            continue
        command = [*program, "config", "view", "--raw", "--output=json", f"--kubeconfig={path}"]
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise ConfigError(f"{program[0]} cannot be run: {error}") from error
        if done.returncode:
            raise ConfigError(done.stderr.strip().removeprefix("error: ") or f"{program[0]} has failed")
        return done.stdout
    raise ConfigError("kubectl, which reads kubeconfig, is not on PATH")


def target(environment: Mapping[str, str], kubeconfig: str = "", context: str = "") -> tuple[Target, Access]:
    """Return the selected cluster, and how to reach it. Raises ConfigError.

    Without a kubeconfig, a pod's service account is used, like in kubectl.
    """
    config = load(environment, kubeconfig)
    if not (context or config.current or config.contexts) and environment.get("KUBERNETES_SERVICE_HOST"):
        try:
            access = in_cluster(environment)
            namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="ascii").strip()
        except (Unreachable, OSError) as error:
            raise ConfigError(f"no kubeconfig, and no service account: {error}") from error
        return Target("", access.address, access.port, namespace=namespace), access
    found = resolve(config, context)
    return found, access_of(found, environment)


def access_of(found: Target, environment: Mapping[str, str]) -> Access:
    """Return the access to a cluster, with credentials. Raises ConfigError."""
    if found.exec and not found.token and not found.token_file:
        found = with_credentials(found, ask_program(found.exec, environment))
    if not found.tls:
        return PlainAccess(found.address, found.port)
    context = tls_context(found)

    def token() -> str:
        return Path(found.token_file).read_text(encoding="ascii").strip() if found.token_file else found.token

    return TlsAccess(found.address, found.port, lambda: context, token, found.server_name)


def tls_context(found: Target) -> ssl.SSLContext:
    """Return a TLS context that trusts only the cluster's authority, with the user's certificate. Raises
    ConfigError."""
    try:
        context = ssl.create_default_context(cafile=found.authority.path or None, cadata=found.authority.text or None)
        if found.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if found.certificate:
            # readable only by root and this user; ssl can only load files
            with tempfile.TemporaryDirectory() as directory:
                names = [_file(each, Path(directory) / name) for name, each in
                         (("certificate", found.certificate), ("key", found.key))]  # fmt: skip
                context.load_cert_chain(*names)
    except FileNotFoundError as error:
        named = [each.path for each in (found.authority, found.certificate, found.key) if each.path]
        missing = next((path for path in named if not os.path.exists(path)), error.filename)
        raise ConfigError(f"unable to read {missing}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the certificates of context {found.context} cannot be used: {error}") from error
    return context


def _file(material: Material, path: Path) -> str:
    if material.path:
        return material.path
    path.touch(mode=0o600)
    path.write_text(material.text)
    return str(path)


def ask_program(wanted: Exec, environment: Mapping[str, str]) -> Mapping[str, object]:
    """Return the status of the ExecCredential that a program prints. Raises ConfigError."""
    interactive = wanted.interactive and sys.stdin is not None and sys.stdin.isatty()
    spec: dict[str, object] = {"interactive": interactive}
    if wanted.cluster is not None:
        spec["cluster"] = wanted.cluster
    info = {"apiVersion": wanted.version, "kind": "ExecCredential", "spec": spec}
    variables = {**environment, **dict(wanted.environment), "KUBERNETES_EXEC_INFO": json.dumps(info)}
    name = os.path.basename(wanted.command)
    if not shutil.which(wanted.command, path=variables.get("PATH")):
        hint = f"\n\n{wanted.hint.strip()}" if wanted.hint else ""
        raise ConfigError(f"getting credentials: exec: executable {name} not found{hint}")
    try:
        done = subprocess.run(
            [wanted.command, *wanted.arguments],
            env=variables,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        told = json.loads(done.stdout) if done.returncode == 0 else {}
    except OSError as error:
        raise ConfigError(f"getting credentials: exec: {name}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"getting credentials: {name} did not answer in JSON") from error
    if done.returncode:
        raise ConfigError(f"getting credentials: exec: executable {name} failed with exit code {done.returncode}")
    status = told.get("status") if isinstance(told, dict) else None
    if not isinstance(status, dict) or not (status.get("token") or status.get("clientCertificateData")):
        raise ConfigError(f"getting credentials: {name} gave neither a token nor a certificate")
    return status


def with_credentials(found: Target, status: Mapping[str, object]) -> Target:
    """Return a target with the credentials of a program. Raises ConfigError."""
    texts = {name: str(status.get(name) or "") for name in ("token", "clientCertificateData", "clientKeyData")}
    if bool(texts["clientCertificateData"]) != bool(texts["clientKeyData"]):
        raise ConfigError("getting credentials: the program gave a certificate without its key, or the reverse")
    return replace(
        found,
        token=texts["token"],
        certificate=Material(text=texts["clientCertificateData"]) or found.certificate,
        key=Material(text=texts["clientKeyData"]) or found.key,
    )
