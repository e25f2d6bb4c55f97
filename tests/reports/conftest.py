"""What the tests of pages share: what may stand on a page, fifty hostile strings, and a browser."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


class Page(HTMLParser):
    """The page's tags, what it refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.links: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.elements.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "a":
            self.links.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)
        elif self.cdata_elem == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="session")
def read() -> Callable[[str], Page]:
    """A page, taken apart."""
    return Page


@pytest.fixture(scope="session")
def check_alone() -> Callable[[str], Page]:
    """That a page fetches nothing, executes nothing but its own script, and has no id twice."""

    def check(text: str) -> Page:
        page = Page(text)
        assert not {"link", "img", "iframe", "object", "embed", "form", "base", "foreignobject"} & set(page.tags)
        (script,) = page.scripts
        assert page.tags.count("script") == 1
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        (policy,) = [value for name, value in page.attributes if name == "content" and value and "default-src" in value]
        assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        for name, value in page.attributes:
            assert not name.startswith("on"), name
            if name in ("src", "action", "data", "xlink:href", "formaction"):
                assert value is not None and value.startswith("#"), value
        for link in page.links:
            href = link["href"] or ""
            if href.startswith("data:"):
                assert re.match(r"data:(text/csv|application/x-tex);charset=utf-8,[A-Za-z0-9_.~,:;/()=%-]*$", href), (
                    href
                )
                assert re.fullmatch(r"[A-Za-z0-9_.-]+\.(csv|tex)", link["download"] or "")
            else:
                assert re.fullmatch(r"[A-Za-z0-9_./-]+", href) and not href.startswith(("/", "..")), href
        styles = [*page.styles, *(value or "" for name, value in page.attributes if name == "style")]
        assert not re.search(r"url\((?!#)|@import|expression\(", " ".join(styles))
        assert len(set(page.ids)) == len(page.ids)
        return page

    return check


@pytest.fixture(scope="session")
def files_of() -> Callable[[Page], dict[str, str]]:
    """The files that a page hands out of itself, by their names."""
    return lambda page: {
        link["download"]: unquote((link["href"] or "").partition(",")[2])
        for link in page.links
        if link.get("download") and (link["href"] or "").startswith("data:")
    }  # type: ignore[return-value]


@pytest.fixture(scope="session")
def hostile() -> list[str]:
    """Fifty strings that want to be markup, code, a formula or a path."""
    pwn = "document.title='pwned'"
    strings = [
        f"<script>{pwn}</script>", f"</title><script>{pwn}</script>", f"</style><script>{pwn}</script>",
        f"</script><script>{pwn}</script>", f"</pre></td></table><script>{pwn}</script>",
        f"</svg><script>{pwn}</script>", f"]]><script>{pwn}</script>", f"--><script>{pwn}</script>",
        f"<img src=x onerror=\"{pwn}\">", f"\"><img src=x onerror={pwn}>", f"'><img src=x onerror={pwn}>",
        f"\" onmouseover=\"{pwn}\" x=\"", f"' onfocus='{pwn}' autofocus='", f"`onload=`{pwn}`",
        f"<svg onload={pwn}>", f"<svg><script>{pwn}</script></svg>", f"<math><mtext></p><script>{pwn}</script>",
        f"<iframe srcdoc='<script>parent.{pwn}</script>'>", f"<body onload={pwn}>", f"<details open ontoggle={pwn}>",
        f"<style>@import 'http://x.invalid'</style>{pwn}", "<link rel=stylesheet href=//x.invalid>",
        "<meta http-equiv=refresh content='0;url=//x.invalid'>", "<base href=//x.invalid>",
        "<form action=//x.invalid><button>", f"javascript:{pwn}", f"data:text/html,<script>{pwn}</script>",
        f"{{{{ 7*7 }}}}{{% include 'x' %}}{pwn}", "{{ script.text }}", "{# #}", f"<template><script>{pwn}</script>",
        f"\x00<script>{pwn}</script>", f"\u2028<script>{pwn}</script>", f"\ufeff\u202e<script>{pwn}</script>",
        "&lt;script&gt;&#60;script&#62;", "&quot;&apos;&amp;", "=HYPERLINK(\"http://x.invalid\",\"a\")",
        "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)*cmd|' /C calc'!A0", "\t=1+1", "\r\n=1+1,\"x\"",
        "\\input{/etc/passwd}", "$\\write18{id}$", "}\\end{table}\\immediate\\write18{id}", "% \n\\input{x}",
        "^^5cinput{x} #1 & ~ _ ^", "../../../../etc/passwd", "..\\..\\con.svg\";x=\"", "a" * 3000 + "<script>",
    ]  # fmt: skip
    assert len(strings) == len(set(strings)) == 50
    return strings


# A browser, spoken to over a pipe in the DevTools protocol ---------------------------------------------------------


class Browser:
    """Headless Chromium with one page open."""

    def __init__(self, program: str, folder: Path) -> None:
        ours, theirs = [os.pipe(), os.pipe()]
        self._in, self._out = ours[1], theirs[0]
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (ours[0], theirs[1])]
        self.downloads = folder / "downloads"
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
            preexec_fn=lambda: (os.dup2(high[0], 3), os.dup2(high[1], 4)),
        )  # fmt: skip
        for fd in (ours[0], theirs[1], *high):
            os.close(fd)
        self._count, self._rest, self._session = 0, b"", None
        self.said: list[str] = []
        self.loaded = False
        page = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads), eventsEnabled=False)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and what it answers."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read(60)
            if found.get("id") == self._count:
                assert "error" not in found, found
                return found["result"]

    def _read(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            more = os.read(self._out, 2**20)
            assert more, "the browser is gone"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(text)
        event, told = found.get("method"), found.get("params", {})
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Runtime.exceptionThrown":
            self.said.append(json.dumps(told["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled":
            self.said.append(json.dumps(told["args"])[:500])
        elif event == "Log.entryAdded":
            self.said.append(told["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not told["request"]["url"].startswith(
            ("file:", "blob:", "data:")
        ):
            self.said.append(f"fetches {told['request']['url']}")
        elif event == "Page.javascriptDialogOpening":
            self.said.append("dialog")
        return found

    def open(self, path: Path, width: int = 1250, **media: str) -> None:
        """Opens a file as someone with such a screen and such preferences would."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
        self("Emulation.setEmulatedMedia", media=media.get("media", ""), features=features)
        self.loaded = False
        self("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._read(60)

    def js(self, code: str) -> Any:
        """The value of an expression on the page."""
        found = self("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, selector: str) -> None:
        """A click with the mouse in the middle of an element."""
        x, y = self.js(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'nearest'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, key: str, code: int, text: str = "") -> None:
        """A key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                 **({"text": text} if text and kind == "keyDown" else {}))  # fmt: skip

    def downloaded(self, name: str) -> str:
        """A file that a click has downloaded."""
        end = time.monotonic() + 30
        while not (self.downloads / name).is_file():
            there = sorted(p.name for p in self.downloads.iterdir()) if self.downloads.is_dir() else []
            assert time.monotonic() < end, f"only {there}"
            self.js("new Promise(done => setTimeout(done, 50))")
        return (self.downloads / name).read_text("utf-8")

    def picture(self, path: Path) -> Path:
        """A picture of the whole page; looked at by people."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)
        self._process.terminate()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None or os.name == "nt":
        pytest.skip("there is no Chromium here")
    opened = Browser(program, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()
