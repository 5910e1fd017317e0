"""The launch inside of the EHR's page, in a real browser: `ehr.localhost` and `app.localhost` are two sites to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from markupsafe import escape
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Playwright, expect, sync_playwright

from infra.local.ca import Certificates
from tests.smart_launch.conftest import Sandbox, serving, with_registration
from tests.smart_launch.example_app import make_app

ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
#: Third-party cookies allowed, as in the browsers of older EHR clients.
ALLOWED = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def program() -> str:
    found = shutil.which("chromium")
    assert found, "chromium is missing: make test installs it"
    return found


@pytest.fixture(scope="module")
def browser(playwright: Playwright, program: str) -> Iterator[Browser]:
    """A browser as it comes: third-party cookies blocked."""
    opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
    yield opened
    opened.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(ignore_https_errors=True)
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


@pytest.fixture
def allowing(playwright: Playwright, program: str, tmp_path: Path) -> Iterator[BrowserContext]:
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(ALLOWED), "utf-8")
    opened = playwright.chromium.launch_persistent_context(
        str(tmp_path), executable_path=program, args=ARGUMENTS, ignore_https_errors=True
    )
    yield opened
    opened.close()


def launch(page: Page, sandbox: Sandbox, patient: str) -> None:
    page.goto(f"{sandbox.origin}/")
    page.goto(f"{sandbox.origin}/patients/{patient}")
    page.click("#launch")


def app_frame(page: Page, sandbox: Sandbox) -> Frame:
    page.frame_locator("#app").locator("body").wait_for()
    return next(frame for frame in page.frames if frame.url.startswith(sandbox.app_origin))


def shown(page: Page) -> Any:
    body = page.frame_locator("#app").locator("body")
    expect(body).to_contain_text("patient", timeout=15_000)
    return json.loads(body.inner_text())


@pytest.mark.requirement("S84", "S85", "XH1")
def test_third_party_cookies_blocked(context: BrowserContext, neutral: Sandbox) -> None:
    page = context.new_page()
    launch(page, neutral, "smart-1")
    assert shown(page)["patient"] == "smart-1"
    cookies = {item["name"]: item for item in context.cookies() if item["name"].startswith("__Host-launch-")}
    assert len(cookies) == 1
    assert next(iter(cookies.values())).get("partitionKey") == "https://ehr.localhost"


@pytest.mark.requirement("S85")
def test_third_party_cookies_allowed(allowing: BrowserContext, neutral: Sandbox) -> None:
    page = allowing.new_page()
    launch(page, neutral, "smart-2")
    assert shown(page)["patient"] == "smart-2"


@pytest.mark.requirement("S85")
def test_in_a_window_of_its_own(context: BrowserContext, neutral: Sandbox) -> None:
    page = context.new_page()
    page.goto(f"{neutral.origin}/")
    page.goto(f"{neutral.app_origin}/login")
    page.click("a.button")
    page.get_by_role("button", name="Choose").first.click()
    page.wait_for_url(f"{neutral.app_origin}/l/**")
    assert json.loads(page.inner_text("body"))["patient"]


@pytest.mark.requirement("S85", "S87")
def test_without_scripts(browser: Browser, neutral: Sandbox) -> None:
    context = browser.new_context(ignore_https_errors=True, java_script_enabled=False)
    page = context.new_page()
    launch(page, neutral, "smart-1")
    assert shown(page)["patient"] == "smart-1"
    context.close()


@pytest.mark.requirement("S10", "XB11")
def test_two_tabs_two_patients(context: BrowserContext, neutral: Sandbox) -> None:
    first, second = context.new_page(), context.new_page()
    launch(first, neutral, "smart-1")
    assert shown(first)["patient"] == "smart-1"
    launch(second, neutral, "smart-2")
    assert shown(second)["patient"] == "smart-2"
    frame = app_frame(first, neutral)
    frame.goto(frame.url)
    assert shown(first)["patient"] == "smart-1"


class _WithoutCookiesInFrames:
    """The application as it is in a browser that keeps none of its cookies inside of a frame."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        framed = environ.get("HTTP_SEC_FETCH_DEST") == "iframe"

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [(name, value) for name, value in headers if not (framed and name.lower() == "set-cookie")]
            return start_response(status, kept, *rest)

        result: Iterable[bytes] = self.app(environ, start)
        return result


@pytest.mark.requirement("S85", "S86")
def test_without_cookies_in_the_frame_a_window_of_its_own_is_offered(context: BrowserContext, neutral: Sandbox) -> None:
    neutral.late.app = _WithoutCookiesInFrames(make_app(neutral.smart))
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    launch(page, neutral, "smart-1")
    button = page.frame_locator("#app").get_by_role("button", name="Open in a new window")
    button.wait_for()
    assert not any("/oauth/authorize" in url for url in requests)  # the EHR's launch, which serves once, is still good
    assert len([url for url in requests if "/launch?" in url]) == 2  # no loop
    with context.expect_page() as opened:
        button.click()
    window = opened.value
    window.wait_for_url(f"{neutral.app_origin}/l/**")
    assert json.loads(window.inner_text("body"))["patient"] == "smart-1"


@pytest.mark.requirement("S83", "XH1")
@pytest.mark.parametrize("path", ["/login", "/launch", "/launch?iss=https://unknown.example&launch=x"])
def test_a_foreign_page_can_not_embed_the_app(context: BrowserContext, neutral: Sandbox, path: str) -> None:
    page = context.new_page()
    with serving(_embedding(f"{neutral.app_origin}{path}"), None) as evil:
        with page.expect_event("console", lambda message: "frame-ancestors" in message.text):
            page.goto(f"http://evil.localhost:{evil.server_port}/")
        assert not any(frame.url.startswith(neutral.app_origin) for frame in page.frames)


def _embedding(url: str, attributes: str = "") -> Any:
    """Return a site that embeds an address."""
    site = Flask("evil")
    site.add_url_rule("/", "page", lambda: f'<iframe id="app" {attributes} src="{escape(url)}"></iframe>')
    return site


@pytest.mark.requirement("S83", "XH1")
def test_a_foreign_page_can_not_embed_a_running_launch(context: BrowserContext, neutral: Sandbox) -> None:
    page = context.new_page()
    launch(page, neutral, "smart-1")
    shown(page)
    running = app_frame(page, neutral).url
    other = context.new_page()
    with serving(_embedding(running), None) as evil:
        with other.expect_event("console", lambda message: "frame-ancestors" in message.text):
            other.goto(f"http://evil.localhost:{evil.server_port}/")
        assert not any(frame.url.startswith(neutral.app_origin) for frame in other.frames)


@pytest.mark.requirement("S83", "XH1")
def test_an_allowed_ehr_inside_of_a_foreign_page_can_not_embed_the_app(
    context: BrowserContext, neutral: Sandbox
) -> None:
    """Every ancestor counts, not the parent alone: the EHR's page in a page of an attacker's is no EHR's page."""
    page = context.new_page()
    with serving(_embedding("about:blank"), None) as chart:
        allowed = f"http://chart.localhost:{chart.server_port}"
        neutral.serve(with_registration(neutral.smart, frame_ancestors=(allowed,)))
        app_url = f"{neutral.app_origin}/callback/sandbox?state={'x' * 32}"  # any page of this EHR's will do
        chart.app = _embedding(app_url)
        page.goto(f"{allowed}/")
        page.frame_locator("#app").locator("h1").wait_for()  # alone, the EHR's page may
        with serving(_embedding(f"{allowed}/"), None) as evil:
            other = context.new_page()
            with other.expect_event("console", lambda message: "frame-ancestors" in message.text):
                other.goto(f"http://evil.localhost:{evil.server_port}/")
            assert not any(frame.url.startswith(neutral.app_origin) for frame in other.frames)


@pytest.mark.requirement("S83", "XH1", "S86")
@pytest.mark.parametrize("failure", ["session", "callback", "discovery"])
def test_error_pages_show_in_the_ehr_s_frame_and_in_no_other(
    context: BrowserContext, neutral: Sandbox, failure: str
) -> None:
    smart = with_registration(neutral.smart)
    neutral.serve(smart)
    page = context.new_page()
    if failure == "discovery":
        neutral.control("PUT", "state", {"discoveryFault": {"status": 500}})
    if failure == "callback":
        neutral.control("PUT", "state", {"tokenFault": {"status": 500, "body": "down"}})
    launch(page, neutral, "smart-1")
    if failure == "session":
        shown(page)
        frame = app_frame(page, neutral)
        smart.sessions.end([frame.url.rstrip("/").rpartition("/")[2]], "test")
        frame.goto(frame.url)
    heading = page.frame_locator("#app").locator("h1")
    heading.wait_for()
    url = app_frame(page, neutral).url
    other = context.new_page()
    with serving(_embedding(url), None) as evil:
        with other.expect_event("console", lambda message: "frame-ancestors" in message.text):
            other.goto(f"http://evil.localhost:{evil.server_port}/")
        assert not any(frame.url.startswith(neutral.app_origin) for frame in other.frames)


@pytest.mark.requirement("S85")
@pytest.mark.parametrize("mode", ["blocked", "allowed"])
def test_in_a_sandboxed_frame(
    context: BrowserContext, allowing: BrowserContext, certificates: Certificates, neutral: Sandbox, mode: str
) -> None:
    """As athenahealth embeds apps: no navigation of the top, no downloads, no modal windows."""
    flags = "allow-scripts allow-forms allow-same-origin allow-popups"
    page = (context if mode == "blocked" else allowing).new_page()
    with serving(_embedding("about:blank"), certificates) as chart:
        origin = f"https://ehr.localhost:{chart.server_port}"
        neutral.serve(with_registration(neutral.smart, frame_ancestors=(origin,)))
        value = neutral.control("POST", "launches", {"patient": "smart-2"})["launch"]
        url = f"{neutral.app_origin}/launch?{urlencode({'iss': neutral.iss, 'launch': value})}"
        chart.app = _embedding(url, f'sandbox="{flags}"')
        page.goto(f"{neutral.origin}/")
        page.goto(f"{origin}/")
        assert shown(page)["patient"] == "smart-2"


@pytest.mark.requirement("S84", "S85")
def test_cookies_of_each_mode(context: BrowserContext, allowing: BrowserContext, neutral: Sandbox) -> None:
    """Where third-party cookies are blocked, they live in the EHR's partition; where not, that does no harm."""
    for browser in (context, allowing):
        page = browser.new_page()
        launch(page, neutral, "smart-1")
        shown(page)
        mine = [item for item in browser.cookies() if item["domain"] == "app.localhost"]
        assert [item["name"].startswith("__Host-launch-") for item in mine].count(True) == 1
        assert all(item["name"].startswith("__Host-") for item in mine)
        for item in mine:
            assert item["secure"]
            assert item["httpOnly"]
            assert item["sameSite"] == "None"
            assert item.get("partitionKey") == "https://ehr.localhost"


@pytest.mark.requirement("S77", "XH5", "XC10")
def test_nothing_is_left_in_the_browser_s_storage(allowing: BrowserContext, neutral: Sandbox) -> None:
    page = allowing.new_page()  # elsewhere the browser itself refuses a frame its storage
    launch(page, neutral, "smart-1")
    shown(page)
    frame = app_frame(page, neutral)
    left = frame.evaluate(
        "async () => [localStorage.length, sessionStorage.length, (await indexedDB.databases()).length,"
        " (await caches.keys()).length, document.cookie, history.length > 0]"
    )
    assert left[:5] == [0, 0, 0, 0, ""]
    assert "?" not in frame.url


@pytest.mark.requirement("S80")
def test_back_after_logout_shows_nothing(context: BrowserContext, neutral: Sandbox) -> None:
    page = context.new_page()
    launch(page, neutral, "smart-1")
    document = shown(page)
    frame = app_frame(page, neutral)
    frame.evaluate(
        """token => { const form = document.createElement("form"); form.method = "post"; form.action = "logout";
        const field = document.createElement("input"); field.name = "csrf_token"; field.value = token;
        form.append(field); document.body.append(form); form.submit(); }""",
        document["csrf_token"],
    )
    expect(page.frame_locator("#app").locator("body")).to_contain_text("You are signed out")
    frame.evaluate("history.back()")
    expect(page.frame_locator("#app").locator("body")).to_contain_text("Your session in this app has ended")
