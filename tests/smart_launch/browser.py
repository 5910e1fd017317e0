"""A browser for the tests: it keeps cookies as browsers do, and follows redirects one at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3


@dataclass
class Page:
    """An answer."""

    url: str
    status: int
    headers: urllib3.HTTPHeaderDict
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def location(self) -> str:
        return urljoin(self.url, self.headers.get("Location", ""))

    def form(self, index: int = 0) -> tuple[str, dict[str, str]]:
        """Return target and hidden fields of a form."""
        form = re.findall(r"<form[^>]*>.*?</form>", self.text, re.DOTALL)[index]
        action = re.search(r'action="([^"]*)"', form)
        fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form)
        assert action is not None
        return urljoin(self.url, unescape(action[1])), {unescape(name): unescape(value) for name, value in fields}

    def attribute(self, pattern: str) -> str:
        match = re.search(pattern, self.text)
        assert match is not None, f"no {pattern} in {self.text}"
        return unescape(match[1])


@dataclass
class Browser:
    """Cookies by host, and every address that was visited."""

    ca_file: str
    keeps_cookies: bool = True
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    visited: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, url: str, headers: dict[str, str] | None = None) -> Page:
        return self._send("GET", url, None, headers or {})

    def post(self, url: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Page:
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "null", "Sec-Fetch-Site": "same-origin"}
        return self._send("POST", url, urlencode(fields), {**form, **(headers or {})})

    def follow(self, page: Page, until: str = "", most: int = 12) -> Page:
        """Follow redirects to the end, or to an address that begins with `until`, which is not visited."""
        for _ in range(most):
            if page.status not in (302, 303, 307) or (until and page.location.startswith(until)):
                return page
            page = self.get(page.location)
        raise AssertionError("redirects without end")

    def _send(self, method: str, url: str, body: str | None, headers: dict[str, str]) -> Page:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        self.visited.append(f"{method} {url}")
        jar = self.cookies.setdefault(host, {})
        if jar:
            headers = {**headers, "Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        pool = urllib3.HTTPSConnectionPool(
            "127.0.0.1", port, ca_certs=self.ca_file, server_hostname=host, assert_hostname=host
        )
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        answer = pool.urlopen(
            method,
            target,
            body=body,
            headers={"Host": f"{host}:{port}", "Accept": "text/html", **self.headers, **headers},
            redirect=False,
            retries=False,
            timeout=30,
        )
        if self.keeps_cookies:
            self._keep(jar, answer.headers.getlist("Set-Cookie"))
        return Page(url, answer.status, answer.headers, answer.data)

    @staticmethod
    def _keep(jar: dict[str, str], lines: list[str]) -> None:
        for line in lines:
            cookie: SimpleCookie = SimpleCookie(re.sub(r";\s*Partitioned", "", line))
            for name, morsel in cookie.items():
                if morsel["max-age"] == "0" or "1970" in morsel["expires"]:
                    jar.pop(name, None)
                else:
                    jar[name] = morsel.value
