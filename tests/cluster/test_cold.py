"""What a container on disk alone would lose: it stays in STANDBY instead, and says why; or nothing is lost."""

from tests.cluster.kube import until
from tests.cluster.pods import Place, Pod, annotations, ask, container
from tests.cluster.test_volumes import mount, until_changed

SOON = annotations(standby_duration="2s")

WATCHES = """
import ctypes, http.server, os, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watch, b"/config", 0x3C0) > 0  # moved, created, deleted
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            seen = len(os.read(watch, 65536))
        except BlockingIOError:
            seen = 0
        body = str(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
"""A web server that says how many bytes of events there have been in a directory since the last request."""


def decided(pod: Pod) -> None:
    """Wait until it is COLD, or has said why it is not."""
    until(lambda: pod.state() == "COLD" or pod.says()["why_kept"], "it is COLD, or says why not", 40)
    print(pod.state(), pod.says()["why_kept"])


def test_events_of_a_directory_that_changes_asleep(place: Place) -> None:
    place.create("configmaps", "config", data={"key": "before"})
    web = container(command=["python3", "-c", WATCHES], volumeMounts=[mount("config", "/config")])
    web["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    volumes = [{"name": "config", "configMap": {"name": "config"}}]
    pod = place.pod("web", web, volumes=volumes, annotated=SOON)
    ask(pod.ip)
    pod.until_asleep()
    decided(pod)
    place.api.patch("configmaps", "config", {"data": {"key": "after"}}, place.name)
    until_changed(pod, "configmap/config")
    assert int(ask(pod.ip).text) > 0
    assert pod.restarts() == 0


def test_processes_among_those_of_the_node(place: Place) -> None:
    """Another process may have got the pid meanwhile."""
    pod = place.pod("web", hostPID=True, annotated=SOON)
    ask(pod.ip, body="kept")
    pod.until_asleep()
    decided(pod)
    assert pod.state() == "STANDBY"
    assert ask(pod.ip).text == "kept 1"


def test_it_goes_cold_and_comes_back(place: Place) -> None:
    pod = place.pod("web", annotated=SOON)
    ask(pod.ip, body="kept")
    for turn in range(1, 3):
        until(lambda: pod.state() == "COLD", "it is COLD", 40)
        assert ask(pod.ip).text == f"kept {turn}"
    assert pod.restarts() == 0
    assert pod.exec("hostname").strip() == "web"
    pod.delete(10)
    pod.until_gone()
