"""The page in a real Chromium: it loads, moves, plays, darkens, shrinks and prints."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from browser import Browser
from made_detectors import TRUTH, detector, hits

from tad_distill.evaluate.detectors import Telling
from tad_distill.evaluate.page import footage
from tad_distill.evaluate.page.footage import Footage
from tad_distill.evaluate.page.page import Page, render
from tad_distill.evaluate.page.run_notes import RunNotes
from tad_distill.evaluate.page.timeline import Scene

HISTORY = tuple({"step": i, "loss": 10.0 / (i + 1), "validation_mAP": i / 20} for i in range(10))
LONG_NAME = "a detector with a name that is much longer than a telephone is wide " * 2


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if browser.executable() is None:
        pytest.skip(
            "no Chromium here: the page was not tried in a browser (apt-get install chromium)"
        )
    with browser.chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def stills(duration_s: float, source: str = "") -> Footage:
    """Footage of eight stills of rising brightness, without a video to decode."""
    import cv2
    import numpy as np

    sheet = np.hstack([np.full((48, 64, 3), 30 * i, dtype=np.uint8) for i in range(8)])
    _, jpeg = cv2.imencode(".jpg", sheet)
    return Footage(
        source, "video/mp4", footage.data_url(jpeg.tobytes(), "image/jpeg"), 8, 4 / 3, ""
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two detectors, a video with stills and one without; of every chart one."""
    own = detector(TRUTH, [*hits("a01", "b0", "c1"), ("a", "x", 0.02, 30.0, 50.0)])
    other = detector(TRUTH, hits("a0", "b01"), name=LONG_NAME)
    annotations = own.result.annotations
    scenes = [
        Scene(
            Telling(video, "why"),
            60.0,
            annotations[annotations["video"] == video],
            stills(60.0) if video == "a" else None,
        )
        for video in "ab"
    ]
    notes = RunNotes(Path("run"), {"train": {"lr": 0.1}}, HISTORY)
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render(Page([own, other], scenes, notes, (), {"protocol": "plain"})))
    return path


@pytest.fixture
def opened(chromium: Browser, page: Path) -> Browser:
    chromium.look(1200)
    chromium.open(page)
    return chromium


def scene(number: int) -> str:
    return f"document.querySelectorAll('.scene')[{number}]"


def cursor(opened: Browser, number: int = 0) -> float:
    """Where the cursor of a scene is, in seconds."""
    share = opened.run(f"parseFloat({scene(number)}.querySelector('.cursor').getAttribute('x1'))")
    return float(share) * 0.6


def test_it_loads_without_a_complaint_and_asks_for_nothing(opened: Browser, page: Path) -> None:
    assert opened.run("document.documentElement.className") == "js"
    assert opened.complaints() == []
    asked = [url for url in opened.requests() if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]


def test_the_check_for_complaints_sees_them(chromium: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://localhost:9/x.png'><script>nowhere()</script>")
    chromium.open(bad)
    assert any("nowhere" in said for said in chromium.complaints())
    assert any("localhost" in url for url in chromium.requests())


def test_a_click_moves_the_cursor_there(opened: Browser) -> None:
    box = opened.run(
        f"(() => {{ const t = {scene(0)}.querySelector('.tracks-svg');"
        " t.scrollIntoView({block: 'center'});"
        " const b = t.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    left, top, width, height = box
    opened.click(left + width / 5, top + height / 2)
    assert cursor(opened) == pytest.approx(12, abs=0.2)
    said = opened.run(f"{scene(0)}.querySelector('.readout').textContent")
    assert said.startswith("12.") and "annotations: x" in said and "own: x 0.90 ✓" in said
    assert cursor(opened, 1) == 0


def test_keys_move_the_cursor_and_say_where_it_is(opened: Browser) -> None:
    opened.run(f"{scene(0)}.querySelector('.tracks').focus()")
    places = []
    for key, modifiers in (("ArrowRight", 0), ("ArrowRight", 8), ("ArrowLeft", 0), ("End", 0),
                           ("ArrowUp", 0), ("Home", 0), ("ArrowDown", 0)):  # fmt: skip
        opened.press(key, modifiers)
        places.append(cursor(opened))
    assert places == pytest.approx([0.6, 3.6, 3.0, 60, 10, 0, 10], abs=0.01)
    values: dict[str, Any] = opened.run(
        f"(() => {{ const t = {scene(0)}.querySelector('.tracks');"
        " return {now: t.ariaValueNow, text: t.ariaValueText, role: t.role}; })()"
    )
    assert values["role"] == "slider" and values["now"] == "10.00"
    assert values["text"].startswith("10.0 s")


def test_everything_that_moves_is_reached_by_tab(opened: Browser) -> None:
    reached = set()
    for _ in range(40):
        opened.press("Tab")
        reached.add(opened.run("document.activeElement.className || document.activeElement.id"))
    assert {"tracks", "min-score", "play"} <= reached


def test_stills_follow_the_cursor_and_play(opened: Browser) -> None:
    still = f"{scene(0)}.querySelector('.still').style.getPropertyValue('--still')"
    opened.run(f"{scene(0)}.querySelector('.tracks').focus()")
    opened.press("End")
    assert opened.run(still) == "7"
    opened.press("Home")
    assert opened.run(still) == "0"
    opened.run(f"{scene(0)}.querySelector('.play').click()")
    end = time.monotonic() + 10
    while cursor(opened) < 0.2 and time.monotonic() < end:
        time.sleep(0.05)
    assert 0.2 <= cursor(opened) < 10
    opened.press(" ")
    assert opened.run(f"{scene(0)}.querySelector('.play').textContent") == "Play"


def test_the_slider_shows_what_is_sure_enough(opened: Browser) -> None:
    shown = f"{scene(0)}.querySelectorAll('.seg[data-score]:not(.off)').length"
    count = f"[...{scene(0)}.querySelectorAll('.count')].map(e => e.textContent)"
    assert (opened.run(shown), opened.run(count)) == (3, ["1 right, 0 wrong", "2 right, 0 wrong"])
    move = (
        "(v => { const s = document.querySelector('#min-score'); s.value = v;"
        " s.dispatchEvent(new Event('input')); })"
    )
    opened.run(f"{move}(0.01)")
    assert (opened.run(shown), opened.run(count)) == (4, ["1 right, 0 wrong", "2 right, 1 wrong"])
    opened.run(f"{move}(0.95)")
    assert opened.run(shown) == 0
    opened.run("document.querySelector('.control button').click()")
    assert opened.run(shown) == 3


def test_dark_is_dark_and_light_is_light(opened: Browser) -> None:
    def brightness(of: str) -> float:
        colour = opened.run(f"getComputedStyle(document.body).{of}")
        return sum(float(part) for part in colour[4:-1].split(",")) / 3

    assert brightness("backgroundColor") > 240 and brightness("color") < 60
    opened.look(1200, dark=True)
    assert brightness("backgroundColor") < 40 and brightness("color") > 200


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_scrolling_sideways(chromium: Browser, page: Path, width: int) -> None:
    chromium.look(width, 844, phone=True)
    chromium.open(page)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("document.querySelector('.tracks-svg').getBoundingClientRect().width") > 150
    sizes = chromium.run(
        "[...document.querySelectorAll('svg.chart')]"
        ".map(s => 11.5 * s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    )
    assert min(sizes) > 8  # pixels of the letters in charts


def test_it_prints(opened: Browser) -> None:
    pdf = opened.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000


def test_without_script_everything_is_there(chromium: Browser, page: Path) -> None:
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.look(1200)
        chromium.open(page)
        assert len(chromium.picture()) > 50_000
        # The page's own script is off; the protocol's expressions still run.
        assert chromium.run("document.documentElement.className") == ""
        assert (
            chromium.run("getComputedStyle(document.querySelector('.control')).display") == "none"
        )
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)


def open_video(chromium: Browser, tmp_path: Path, source: str) -> None:
    own = detector(TRUTH, hits("a01"))
    annotations = own.result.annotations
    shown = Scene(
        Telling("a", ""), 3.0, annotations[annotations["video"] == "a"], stills(3.0, source)
    )
    path = tmp_path / "page.html"
    path.write_text(render(Page([own], [shown], RunNotes(), (), {})))
    chromium.look(1200)
    chromium.open(path)


def wait(chromium: Browser, condition: str) -> bool:
    end = time.monotonic() + 10
    while not chromium.run(condition) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(chromium.run(condition))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_real_video_plays_in_step(
    chromium: Browser, shared: Path, tmp_path: Path, embedded: bool
) -> None:
    path = shared / "real/videos/gmdcsa24_192p/s4_fall_02.mp4"
    taken = footage.take(path, tmp_path / "page.html", 3.0, 1 << 20 if embedded else 0)
    assert taken
    open_video(chromium, tmp_path, taken.source)
    assert wait(chromium, "document.querySelector('video').readyState >= 2"), sys.platform
    chromium.run(f"{scene(0)}.querySelector('.tracks').focus()")
    chromium.press("ArrowRight", 8)
    assert chromium.run("document.querySelector('video').currentTime") == pytest.approx(
        0.5, abs=0.01
    )
    chromium.press(" ")
    assert wait(chromium, "document.querySelector('video').currentTime > 0.8")
    chromium.press(" ")
    assert wait(chromium, "document.querySelector('video').paused")
    time.sleep(0.1)
    at = chromium.run("document.querySelector('video').currentTime")
    share = chromium.run("parseFloat(document.querySelector('.cursor').getAttribute('x1'))")
    assert share * 0.03 == pytest.approx(at, abs=0.01)
    assert chromium.complaints() == []


def test_a_video_that_does_not_play_gives_way_to_stills(chromium: Browser, tmp_path: Path) -> None:
    open_video(chromium, tmp_path, footage.data_url(b"no video", "video/mp4"))
    visible = "getComputedStyle(document.querySelector('.still')).display === 'block'"
    assert wait(chromium, visible)
    chromium.run(f"{scene(0)}.querySelector('.tracks').focus()")
    chromium.press("End")
    assert chromium.run("document.querySelector('.still').style.getPropertyValue('--still')") == "7"
