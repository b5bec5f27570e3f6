"""Commands of which a cluster is made, each with an end, and with what it has said if it fails."""

import subprocess

from tests.integration.patience import patient


class ClusterError(Exception):
    """There is no cluster to be had: a service or a command does not do what it is to do. Says which, and its words."""


def run(*command: str, timeout: float = 60.0) -> str:
    """What a command prints. Raises ClusterError."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patient(timeout), check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(command)}: not done within {patient(timeout):.0f} s") from None
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stdout.strip()}")
    return done.stdout
