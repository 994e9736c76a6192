"""A headless Chromium for tests of pages: opened, clicked, typed into and photographed through its DevTools protocol.

Messages go through two pipes (`--remote-debugging-pipe`), so neither a port nor another package is needed.
"""

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe",
]  # fmt: skip
TIMEOUT = 60.0
# What the protocol wants to know of keys beside their names.
_CODES = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Home": 36,
    "End": 35,
    "Escape": 27,
    " ": 32,
}


def chromium() -> str | None:
    """The program, or None where there is none."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """One process with one tab; to be used in a `with`."""

    def __init__(self, width: int = 1280, height: int = 800):
        program = chromium()
        assert program is not None
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # The browser reads from 3 and writes to 4, so copies of the pipes' ends are made above these. The first ends
        # stay open until the browser runs: `pass_fds` wants 3 and 4 open.
        pipes = [*os.pipe(), *os.pipe()]
        theirs_in, self._to, self._from, theirs_out = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes]

        def placed() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        command = [program, *FLAGS, f"--user-data-dir={self._folder.name}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            command, preexec_fn=placed, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Every end that is the browser's has to be closed here: the pipes end only with the last one.
        for end in (*pipes, theirs_in, theirs_out):
            os.close(end)
        self._left, self._number, self._session = b"", 0, None
        self.said: list[str] = []  # errors and what the console was told
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict:
        """What a method of the protocol returns; RuntimeError where it fails or the browser has ended, TimeoutError
        after a minute."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._to, json.dumps(message).encode() + b"\0")
        except BrokenPipeError as error:
            raise RuntimeError("the browser has ended") from error
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict:
        until = time.monotonic() + TIMEOUT
        while b"\0" not in self._left:
            if not select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            more = os.read(self._from, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._left += more
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(event["params"]["exceptionDetails"])[:2000])
        elif event.get("method") == "Log.entryAdded":
            self.said.append(event["params"]["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.said.append(str([one.get("value") for one in event["params"]["args"]]))

    def open(self, path: pathlib.Path) -> None:
        """Open a file and wait until its scripts have run and it was drawn once."""
        self.said.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.readyState === 'complete' && window.geotdm && geotdm.draws > 0")

    def resize(self, width: int, height: int, *, ratio: float = 1.0, touch: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=touch
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def prefer(self, **features: str) -> None:
        """Media features: prefer(prefers_color_scheme="dark")."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=wanted)

    def get(self, code: str) -> Any:
        """The value of an expression, a promise's once it is there. RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", code))
        return answer["result"].get("value")

    def wait(self, code: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + TIMEOUT
        while not self.get(f"Boolean({code})"):
            if time.monotonic() > until:
                raise TimeoutError(f"never true: {code}; {self.said}")
            time.sleep(0.02)

    def drawn(self) -> None:
        """Wait for the next picture."""
        self.get("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def middle(self, selector: str) -> tuple[float, float]:
        """The middle of an element, which is scrolled into view."""
        place = "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
        middle = "[b.left + b.width / 2, b.top + b.height / 2]"
        x, y = self.of(selector, f"{place} return {middle};")
        return x, y

    def of(self, selector: str, code: str) -> Any:
        """What code returns of an element `e`."""
        return self.get(f"((e) => {{ {code} }})(document.querySelector({json.dumps(selector)}))")

    def click(self, selector: str, count: int = 1) -> None:
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, x, y, button="left", clickCount=count)
        self.drawn()

    def drag(self, selector: str, dx: float, dy: float, *, button: str = "left", shift: bool = False) -> None:
        x, y = self.middle(selector)
        held = {"button": button, "buttons": {"left": 1, "right": 2}[button], "modifiers": 8 if shift else 0}
        self._mouse("mousePressed", x, y, clickCount=1, **held)
        for k in range(1, 5):
            self._mouse("mouseMoved", x + dx * k / 4, y + dy * k / 4, **held)
        self._mouse("mouseReleased", x + dx, y + dy, clickCount=1, **(held | {"buttons": 0}))
        self.drawn()

    def hover(self, x: float, y: float) -> None:
        self._mouse("mouseMoved", x, y)
        self.drawn()

    def wheel(self, selector: str, dy: float) -> None:
        x, y = self.middle(selector)
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=dy)
        self.drawn()

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def touch(self, steps: list[list[tuple[float, float]]]) -> None:
        """Fingers put down at the first step's points, moved through the others, and lifted."""
        for k, points in enumerate(steps):
            kind = "touchMove" if k else "touchStart"
            touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.drawn()

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key by the name that scripts see: 'a', '?', 'ArrowLeft'."""
        about = {
            "key": key,
            "windowsVirtualKeyCode": _CODES.get(key, ord(key[0].upper())),
            "modifiers": 8 if shift else 0,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": key} if len(key) == 1 else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)
        self.drawn()

    def choose(self, selector: str, value: str) -> None:
        """An option of a list, as a user's choice tells the page of it."""
        change = "e.dispatchEvent(new Event('change', {bubbles: true}));"
        self.of(selector, f"e.value = {json.dumps(value)}; {change}")
        self.drawn()

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
