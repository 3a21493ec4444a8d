"""The viewer in headless Chromium: what a person does by hand and by keys, with nothing in the console."""

import os
import threading
from pathlib import Path

import pytest

uvicorn = pytest.importorskip("uvicorn")

from masksearch_jax.viewer import http_app, one_file, sources  # noqa: E402
from tests import browser as browser_lib  # noqa: E402
from tests.stored_episodes import HOSTILE, make_run  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_lib.executable() is None, reason="apt-get install chromium"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address of the server, address of the one file)"""
    folder = tmp_path_factory.mktemp("viewer")
    runs = sources.Runs([make_run(folder / "a", groups=80), make_run(folder / "b", groups=8)])
    config = uvicorn.Config(http_app.application(runs), "127.0.0.1", 0, log_level="error", lifespan="off", ws="none")
    server, listener = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    file = one_file.write(folder / "viewer.html", runs)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", file.as_uri()
    server.should_exit = True
    thread.join(10)
    runs.close()


@pytest.fixture
def page():
    found = browser_lib.Browser()
    yield found
    found.close()


def text_of(page, selector):
    return page.run(f"document.querySelector({selector!r})?.innerText ?? ''")


def shot(page, name):
    """Keep a picture where VIEWER_PICTURES names a folder, for a person to look at."""
    if folder := os.environ.get("VIEWER_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.picture(Path(folder) / f"{name}.png")


@pytest.mark.parametrize("of", ["server", "file"])
@pytest.mark.parametrize("width", [1400, 390])
def test_a_visit(served, page, width, of):
    page.resize(width, 900)
    page.open(served[of == "file"] + "#episodes?sources=0~dapo")
    page.until("document.querySelectorAll('.row').length === 50")
    assert "of 320" in text_of(page, ".pager")
    shot(page, f"{of}_{width}_list")

    page.press("j")
    page.until("document.querySelector('.episode')")
    first = page.run("location.hash")
    assert "open=" in first and page.run("document.querySelector('.detail').offsetParent !== null")
    assert page.run("document.querySelector('.filled b').innerText") == "1849"
    assert page.run("[...document.querySelectorAll('.observation mark')].map(m => m.innerText)") == ["1849"]
    assert text_of(page, ".turns li:nth-child(2)").split("\n")[1:] == ["thinks", "More.", "calls visit", "Karn Velith"]
    # what a passage spells stays text
    assert HOSTILE.split("\\u")[0][:30] in page.run("document.querySelector('.observation .text').textContent")
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    shot(page, f"{of}_{width}_episode")

    page.press("t")
    page.until("document.querySelector('.tokens')")
    assert page.run("document.querySelectorAll('.token.written').length") == 4
    page.run("document.querySelectorAll('.token.written')[1].click()")
    assert "sampler log-prob" in page.until("document.querySelector('.inspector').innerText")
    page.press("ArrowRight")
    page.until(f"location.hash !== {first!r} && location.hash.includes('%7E1')")
    page.press("g")
    page.until("document.querySelectorAll('.columns .column').length === 4")
    shot(page, f"{of}_{width}_group")

    page.press("1")
    page.until("document.querySelectorAll('.row').length === 50")
    page.press("/")
    assert page.run("document.activeElement.name") == "q"
    page.send("Input.insertText", text="number 77 born")
    page.until("Number(document.querySelector('.pager').innerText.match(/of ([0-9]+)/)?.[1]) < 50")
    assert page.run("document.activeElement.name") == "q"  # typing goes on
    page.press("Escape")
    page.press("j")
    page.until("document.querySelector('.task')?.innerText.includes('number 77 was')")
    page.press("Escape")
    page.until("!location.hash.includes('open=')")

    page.press("2")
    page.until("document.querySelectorAll('.compared tbody tr').length > 7")
    page.press("j")
    page.until("document.querySelectorAll('.pair .episode').length >= 2")
    shot(page, f"{of}_{width}_compare")
    page.press("3")
    page.until("document.querySelectorAll('figure svg polyline').length >= 3")
    shot(page, f"{of}_{width}_curves")
    page.press("?")
    page.until("document.querySelector('dialog').open")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert not page.errors


def test_a_deep_link_shows_the_same_and_going_back_works(served, page):
    address = "#episodes?sources=0~dapo&sort=reward&open=0~dapo~5~2&tokens=1"
    page.open(served[0] + address)
    page.until("document.querySelector('.tokens')")
    assert (
        "group 5" in text_of(page, ".detail")
        and page.run("document.querySelector('select[name=sort]').value") == "reward"
    )
    page.press("j")
    page.until("!location.hash.includes('~5~2') && !location.hash.includes('%7E5%7E2')")
    page.run("history.back()")
    page.until("document.querySelector('.detail').innerText.includes('group 5')")
    assert not page.errors


def test_an_error_of_the_server_is_a_sentence(served, page):
    page.open(served[0] + "#episodes?open=0~dapo~999~0")
    assert "no episode of group 999" in page.until("document.getElementById('message').innerText")
    assert page.until("document.querySelectorAll('.row').length")
    page.open("about:blank")
    page.errors.clear()
    page.open(served[0] + "#curves?q=nothing-like-that")
    page.until("document.querySelector('main').innerText !== undefined")
    assert not page.errors
