"""The node's manager and a Prometheus that scrapes it, each on a port of its own, gone with the test."""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import node
from tests.integration.patience import patient

Series = dict[str, float]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=patient(20)) as answer:
        text: str = answer.read().decode()
    return text


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patient(20))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(patient(20))


def port_in(log: Path, pattern: str) -> int:
    """The port that the log names at the end of what fits the pattern, once it does."""
    found: list[str] = []

    def said() -> bool:
        found[:] = re.findall(pattern + r"(\d+)", log.read_text())
        return bool(found)

    node.until(said, f"{log} has {pattern}", 40)
    return int(found[-1])


@dataclass(frozen=True, slots=True)
class Manager:
    port: int
    process: subprocess.Popen[bytes]

    def metrics(self) -> str:
        return get(f"http://127.0.0.1:{self.port}/metrics")

    def series(self, label: str) -> Series:
        """The samples of one container, by name and what labels they have beyond the three."""
        found = {}
        for line in self.metrics().splitlines():
            name, _, value = line.rpartition(" ")
            if f'container="{label}"' in name:
                more = re.findall(r'(?:le|depth)="([^"]+)"', name)
                found[" ".join([name.partition("{")[0], *more])] = float(value)
        return found

    def until(self, label: str, **wanted: float) -> Series:
        """The samples once these are among them: shims gather changes for a moment before they tell of them."""
        node.until(lambda: wanted.items() <= self.series(label).items(), f"{label} has {wanted}")
        return self.series(label)


@contextmanager
def manager(directory: Path, *flags: str) -> Iterator[Manager]:
    log = directory / f"manager-{os.urandom(4).hex()}.log"
    with running(["zeropod", "manager", "--listen", "127.0.0.1:0", *flags], log) as process:
        port = port_in(log, r"on http://127\.0\.0\.1:")
        node.until(lambda: _is_ready(port), "the manager is ready")
        yield Manager(port, process)


def _is_ready(port: int) -> bool:
    try:
        return get(f"http://127.0.0.1:{port}/readyz") == "ok\n"
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


@dataclass(frozen=True, slots=True)
class Prometheus:
    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now: metric and value of each series."""
        arguments = urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(f"http://127.0.0.1:{self.port}/api/v1/query?{arguments}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """That of the only series; None without one."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def until(self, expression: str, wanted: float | None) -> None:
        node.until(lambda: self.value(expression) == wanted, f"{expression} is {wanted}", 30)


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[Prometheus]:
    """Scrapes all the time."""
    config, pace = directory / "prometheus.yml", f"{patient(0.2) * 1000:.0f}ms"
    config.write_text(
        f"global: {{scrape_interval: {pace}, scrape_timeout: {pace}}}\n"
        f"scrape_configs: [{{job_name: zeropod, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
    )
    log = directory / "prometheus.log"
    port = 9000 + os.getpid() % 500
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], log):
        made = Prometheus(port)
        node.until(lambda: _scrapes(made), "Prometheus scrapes", 60)
        yield made


def _scrapes(server: Prometheus) -> bool:
    try:
        return server.value("up") == 1
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    time.sleep(0.1)
    return False
