"""Drives a headless Chromium by its DevTools protocol over a pair of pipes."""

import base64
import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32, "ArrowRight": 39, "ArrowDown": 40}


def program() -> str | None:
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Chromium:
    """One page of a browser."""

    def __init__(self, receive: trio.abc.ReceiveStream, send: trio.abc.SendStream) -> None:
        self._receive, self._send = receive, send
        self._buffer = bytearray()
        self._last = 0
        self._events: deque[dict[str, Any]] = deque()
        self.session = ""
        self.complaints: list[str] = []
        """What its console has said of errors, refused resources and violated policies."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._last += 1
        number = self._last
        request: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        await self._send.send_all(json.dumps(request).encode() + b"\0")
        while True:
            answer = await self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._hear(answer)

    async def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = await self._receive.receive_some()
            assert data, "Chromium has ended"
            self._buffer += data
        message, _, rest = self._buffer.partition(b"\0")
        self._buffer = rest
        made: dict[str, Any] = json.loads(message)
        return made

    def _hear(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"]))

    async def attach(self) -> None:
        """Make the page, and hear of what it complains of."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            await self.call(f"{domain}.enable")
        await self.call("Emulation.setTimezoneOverride", timezoneId="Europe/Zurich")

    async def open(self, url: str) -> None:
        """Go to a page."""
        await self.call("Page.navigate", url=url)

    async def size(self, width: int, height: int, ratio: float = 1.0) -> None:
        """Have a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=False
        )

    async def prefer(self, **features: str) -> None:
        """Prefer what is named as media features are, with _ for -."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=named)

    async def value(self, expression: str) -> Any:
        """Return what an expression is in the page, which may be a promise."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 20.0) -> Any:
        """Return the value as soon as it is a true one."""
        with trio.fail_after(seconds):
            while not (value := await self.value(expression)):  # noqa: ASYNC110 - what is waited for is in the page
                await trio.sleep(0.05)
        return value

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key, and let it go."""
        common = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"Enter": "\r", "Space": " "}.get(key)
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        await self.call("Input.dispatchKeyEvent", **down, **common, modifiers=8 if shift else 0)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common, modifiers=8 if shift else 0)

    async def type(self, text: str) -> None:
        """Write into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def accessible(self, role: str) -> list[str]:
        """Return the names of all that assistive programs see with this role."""
        tree = await self.call("Accessibility.getFullAXTree")
        return [
            node.get("name", {}).get("value", "")
            for node in tree["nodes"]
            if not node.get("ignored") and node.get("role", {}).get("value") == role
        ]

    async def screenshot(self, path: Path) -> None:
        """Write what is in the window to a PNG."""
        taken = await self.call("Page.captureScreenshot", format="png")
        await trio.Path(path).write_bytes(base64.b64decode(taken["data"]))


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Chromium]:
    """Run one until the end of the block. It has no network but this machine's."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # It speaks the protocol on descriptors 3 and 4.
    shell = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    command = [
        "bash", "-c", shell, "bash", str(program()), "--headless=new", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}",
        "--remote-debugging-pipe", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(  # noqa: ASYNC220 - a moment
        command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        async with trio.lowlevel.FdStream(ours_in) as receive, trio.lowlevel.FdStream(ours_out) as send:
            browser = Chromium(receive, send)
            await browser.attach()
            yield browser
            with trio.move_on_after(2):
                browser.session = ""
                await browser.call("Browser.close")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
