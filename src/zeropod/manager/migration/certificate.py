"""This manager's certificate: its own, made anew at each start, signed by nothing.

It says nothing of its owner; what does is a token that names it (`identity`). So there is no authority whose key could
be lost, and nothing on any disk: openssl writes to a pipe, and Python's ssl reads from a file in memory.
"""

import os
import ssl
import subprocess
from hashlib import sha256

import trio

TIMEOUT = 30.0
"""Seconds for openssl, on a node that is busy."""
_REQUEST = b"[req]\ndistinguished_name=name\nprompt=no\n[name]\nCN=zeropod-manager\n"
_COMMAND = (
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
    # Nothing asks when it ends: it is trusted for as long as a token names it.
    "-days", "3650", "-config", "/dev/stdin", "-keyout", "/dev/stdout", "-out", "/dev/stdout",
)  # fmt: skip


class CertificateError(Exception):
    """There is no certificate to be had."""


async def serving() -> tuple[ssl.SSLContext, str]:
    """Return what serves by a new certificate, and its fingerprint. Raises CertificateError."""
    try:
        with trio.fail_after(TIMEOUT):
            done = await trio.run_process(_COMMAND, stdin=_REQUEST, capture_stdout=True, capture_stderr=True)
    except (OSError, subprocess.CalledProcessError, trio.TooSlowError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise CertificateError(f"openssl makes no certificate: {error} {said.decode(errors='replace')}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(memory, done.stdout)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"the certificate cannot be used: {error}") from error
    finally:
        os.close(memory)
    _, _, pem = done.stdout.decode("ascii").partition("-----BEGIN CERTIFICATE-----")
    return context, fingerprint(ssl.PEM_cert_to_DER_cert(f"-----BEGIN CERTIFICATE-----{pem}"))


def asking() -> ssl.SSLContext:
    """Return what connects to any certificate: whose it is, its owner's token says afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(certificate: bytes) -> str:
    """Return what names a certificate."""
    return sha256(certificate).hexdigest()
