"""The page in a real browser: the viewer at work, without a script, by keyboard, and nothing asked of anybody else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from werkzeug.serving import make_server

from imaging_core.settings import Settings
from tests.clinician_app.conftest import MARIES_BRAIN, MARIES_CHEST, MARIES_REPORT, Clinic, registration

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser, make_clinic: Callable[..., Clinic], settings: Settings, charts: None) -> Iterator[Any]:
    """Return what opens a path of a launch in a new page; at the end, check that the page did nothing it must not."""
    clinic = make_clinic(registration(settings.fhir_base_url))
    server = make_server("127.0.0.1", 0, clinic.app, threaded=True, ssl_context="adhoc")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    origin = f"https://localhost:{server.server_port}"
    trouble: list[str] = []
    asked: set[str] = set()
    contexts = []

    def open_page(path: str, **options: Any) -> Page:
        launch = clinic.launch()
        launch_id = launch.removeprefix("/l/")
        jar = clinic.client.get_cookie(f"__Host-launch-{launch_id}", domain="localhost")
        assert jar is not None
        viewport = {"width": 1280, "height": 800}
        context = browser.new_context(**{"ignore_https_errors": True, "viewport": viewport, "locale": "en", **options})
        contexts.append(context)
        context.add_cookies([{"name": jar.key, "value": jar.value, "url": origin, "secure": True, "httpOnly": True}])
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on(
            "request", lambda request: asked.add(f"{urlsplit(request.url).scheme}://{urlsplit(request.url).netloc}")
        )
        page.goto(origin + launch + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    server.shutdown()
    assert trouble == []
    assert asked == {origin}


def _readout(page: Page) -> str:
    expect(page.locator("[data-readout]")).not_to_be_empty(timeout=30_000)
    return page.inner_text("[data-readout]")


def _pixel(page: Page, x: float = 0.5, y: float = 0.5) -> list[int]:
    found: list[int] = page.evaluate(
        "([x, y]) => { const c = document.querySelector('canvas');"
        " return [...c.getContext('2d').getImageData(c.width * x, c.height * y, 1, 1).data] }",
        [x, y],
    )
    return found


def _settled(page: Page) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_dragging_moves_the_window_and_reset_brings_it_back(visit: Callable[..., Page]) -> None:
    page = visit(f"/studies/{MARIES_BRAIN.uid}")
    assert _readout(page) == "W 2000  L 1000"
    before = _pixel(page)
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 340, steps=4)
    page.mouse.up()
    _settled(page)
    assert _readout(page) == "W 1800  L 1200"
    assert _pixel(page) != before
    page.get_by_role("button", name="Reset").click()
    _settled(page)
    assert _readout(page) == "W 2000  L 1000"
    assert _pixel(page) == before


def test_the_canvas_shows_what_the_server_renders(visit: Callable[..., Page]) -> None:
    page = visit(f"/studies/{MARIES_CHEST.uid}")
    _readout(page)
    page.get_by_text("Heatmap", exact=True).click()
    page.get_by_role("button", name="1:1").click()
    _settled(page)
    difference = page.evaluate(
        """() => {
          const canvas = document.querySelector('canvas'), image = document.querySelector('[data-base]');
          const size = 200, left = (canvas.width - size) >> 1, top = (canvas.height - size) >> 1;
          const shown = canvas.getContext('2d').getImageData(left, top, size, size).data;
          const wide = image.naturalWidth, high = image.naturalHeight;
          const other = document.createElement('canvas'); other.width = wide; other.height = high;
          const pen = other.getContext('2d'); pen.drawImage(image, 0, 0);
          let least = 255;
          for (const dx of [-1, 0, 1]) for (const dy of [-1, 0, 1]) {
            const x = Math.round(wide / 2 - size / 2) + dx, y = Math.round(high / 2 - size / 2) + dy;
            const data = pen.getImageData(x, y, size, size).data;
            let most = 0;
            for (let i = 0; i < data.length; i += 4) most = Math.max(most, Math.abs(data[i] - shown[i]));
            least = Math.min(least, most);
          }
          return least;
        }"""
    )
    assert difference <= 24  # half a pixel off at most, through interpolation


def test_the_heatmap_can_be_hidden_and_faded(visit: Callable[..., Page]) -> None:
    page = visit(f"/reports/{MARIES_REPORT.id}")
    _readout(page)
    page.evaluate("() => document.querySelector('[data-heatmap]').decode()")
    _settled(page)

    def colourful() -> int:
        red, _, blue, _ = _pixel(page, 0.42, 0.6)
        return red - blue

    full = colourful()
    assert full > 20
    page.locator("#opacity").fill("20")
    _settled(page)
    faded = colourful()
    assert 0 < faded < full
    page.get_by_text("Heatmap", exact=True).click()
    _settled(page)
    assert colourful() == 0
    assert page.get_by_text("Automated heatmap, not reviewed").is_hidden()


@pytest.mark.requirement("S87")
def test_by_keyboard_alone(visit: Callable[..., Page]) -> None:
    page = visit(f"/reports/{MARIES_REPORT.id}")
    _readout(page)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    before = _pixel(page)
    page.keyboard.press("h")
    page.keyboard.press("i")
    _settled(page)
    assert not page.locator("#overlay").is_checked()
    assert page.get_by_role("button", name="Invert").get_attribute("aria-pressed") == "true"
    assert _pixel(page) != before
    zoom = page.inner_text("[data-zoom]")
    page.keyboard.press("+")
    _settled(page)
    assert page.inner_text("[data-zoom]") != zoom
    page.keyboard.press("f")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    _settled(page)
    assert page.inner_text("[data-zoom]") == zoom
    assert _readout(page) == "W 30600  L 15600"
    page.keyboard.press("1")
    _settled(page)
    assert page.inner_text("[data-zoom]") == "100%"


def test_wheel_zooms_at_the_pointer_and_the_image_stays_in_sight(visit: Callable[..., Page]) -> None:
    page = visit(f"/reports/{MARIES_REPORT.id}")
    _readout(page)
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    for _ in range(40):
        page.mouse.wheel(0, -400)
    _settled(page)
    assert page.inner_text("[data-zoom]") == "3200%"
    page.get_by_role("button", name="Move").click()
    for _ in range(3):
        page.mouse.move(box["x"] + 10, box["y"] + 10)
        page.mouse.down()
        page.mouse.move(box["x"] + 700, box["y"] + 500, steps=3)
        page.mouse.up()
    for _ in range(80):
        page.mouse.wheel(0, 400)
    _settled(page)
    assert page.inner_text("[data-zoom]") == "2%"
    page.keyboard.press("f")
    _settled(page)
    assert sum(_pixel(page)[:3]) > 0


@pytest.mark.requirement("S87")
def test_without_a_script_image_and_heatmap_show_and_can_be_switched(visit: Callable[..., Page]) -> None:
    page = visit(f"/reports/{MARIES_REPORT.id}", java_script_enabled=False)
    assert page.locator("[data-base]").is_visible()
    assert page.locator("[data-heatmap]").is_visible()
    for tools in page.locator("[data-tools]").all():
        assert tools.is_hidden()  # no dead buttons
    page.get_by_text("Heatmap", exact=True).click()
    assert page.locator("[data-heatmap]").is_hidden()
    assert page.get_by_text("Automated analysis, not reviewed").is_visible()


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_page_is_wider_than_its_window(visit: Callable[..., Page], width: int) -> None:
    for path in ("/", f"/reports/{MARIES_REPORT.id}"):
        page = visit(path, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.context.close()


def test_everything_that_can_be_pressed_has_a_name(visit: Callable[..., Page]) -> None:
    page = visit(f"/reports/{MARIES_REPORT.id}")
    _readout(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, a[href], input, summary, img, [role=img], canvas')]
          .filter((item) => item.type !== 'hidden' && !(item.getAttribute('aria-label') || item.alt
            || item.textContent.trim() || item.labels?.length || item.querySelector("img[alt]")))
          .map((item) => item.outerHTML)"""
    )
    assert nameless == []
    headings = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((item) => Number(item.tagName[1]))")
    assert headings[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(headings))


@pytest.mark.requirement("XH5")
def test_nothing_is_kept_in_the_browser(visit: Callable[..., Page]) -> None:
    page = visit(f"/reports/{MARIES_REPORT.id}")
    _readout(page)
    kept = page.evaluate(
        "async () => [localStorage.length, sessionStorage.length, (await indexedDB.databases()).length,"
        " (await caches.keys()).length, (await navigator.serviceWorker.getRegistrations()).length, document.cookie]"
    )
    assert kept == [0, 0, 0, 0, 0, ""]
