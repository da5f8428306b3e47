"""The console as people use it: a real browser before a real service."""

import base64
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from drawing import defective_part, encode, good_part
from playwright.sync_api import expect, sync_playwright
from serving import Service, until

from app.api.keys import generate_key
from training.demo.demo import find_free_port

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium (Debian: chromium) is not here"),
]
SIZES = {"desktop": {"width": 1280, "height": 900}, "tablet": {"width": 820, "height": 1180}}
DISC = "/v1/products/disc"
PNG = {"content-type": "image/png"}
# What of a page's text is no name, number or sign.
MISSING = "undefined"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(two_versions):
    with Service(two_versions, keep_images="all") as service:
        yield service


@pytest.fixture
def opened(browser):
    """Opens the console; at the end nothing must have come from elsewhere, and nothing must have gone wrong."""
    pages = []

    def make(service, size="desktop", view="", **options):
        context = browser.new_context(viewport=SIZES[size], locale="en-GB", **options)
        page = context.new_page()
        page.requests_seen, page.wrong = [], []
        page.on("request", lambda request: page.requests_seen.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.wrong.append(message.text))
        page.goto(f"http://{service.address}/{view}")
        pages.append((page, service.address))
        return page

    yield make
    for page, address in pages:
        own = (f"http://{address}/", f"blob:http://{address}/", "data:")
        assert [url for url in page.requests_seen if not url.startswith(own)] == []
        assert [text for text in page.wrong if "status of 4" not in text] == []
        page.context.close()


def choose(page, image, name="part.png"):
    page.locator("#product option").wait_for(state="attached")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": image})


def drop(page, image, name):
    page.locator("#product option").wait_for(state="attached")
    page.evaluate(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
            const stage = document.getElementById("stage");
            for (const type of ["dragenter", "dragover", "drop"]) {
                stage.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
            }
        }""",
        [base64.b64encode(image).decode(), name],
    )


def say_yes(page, why="a test"):
    page.fill("#asking-value", why)
    page.click("#asking-yes")


def measure_size(locator):
    return float(locator.evaluate("(element) => getComputedStyle(element).fontSize").removesuffix("px"))


@pytest.mark.parametrize("size", SIZES)
def test_a_good_and_a_defective_part_are_dropped_and_judged(service, opened, good_bytes, defective_bytes, size):
    page = opened(service, size)
    drop(page, good_bytes, "a.png")
    expect(page.locator("#verdict")).to_contain_text("GOOD")
    expect(page.locator("#reasons")).to_contain_text("score this high")
    choose(page, defective_bytes, f"{size}.png")
    expect(page.locator("#verdict")).to_contain_text("DEFECTIVE")
    (record,) = until(lambda: service.client.get("/v1/inspections", params={"part_id": size}).json()["items"])
    expect(page.locator("#verdict")).to_contain_text(f"Part {size} · Score {record['score']:,.2f}")
    expect(page.locator("#reasons")).to_contain_text(f"of {record['promise']['num_calibration']} good parts")
    assert page.locator("#stage rect").count() == len(record["regions"]) > 0
    assert measure_size(page.locator("#verdict .word")) >= 50
    expect(page.locator("#strip button").first).to_contain_text(size)
    page.locator("#strip button").nth(1).click()
    expect(page.locator("#verdict")).to_contain_text("GOOD")
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0


def test_the_heat_map_fades_and_the_picture_is_zoomed_by_keys(service, opened, defective_bytes):
    page = opened(service)
    choose(page, defective_bytes)
    page.locator("#heatmap").wait_for()
    page.fill("#opacity", "80")
    assert page.locator("#heatmap").evaluate("(map) => map.style.opacity") == "0.8"
    page.focus("#stage")
    for key in ("+", "+", "ArrowLeft"):
        page.keyboard.press(key)
    transform = "(layers) => layers.style.transform"
    assert page.locator("#layers").evaluate(transform) == "translate(40px, 0px) scale(1.5625)"
    page.keyboard.press("0")
    assert page.locator("#layers").evaluate(transform) == "translate(0px, 0px) scale(1)"
    page.locator(".regions button").first.click()
    assert page.locator("#layers").evaluate(transform) != "translate(0px, 0px) scale(1)"


def test_a_version_is_activated_and_taken_back(service, opened):
    old, new = (one["version"] for one in service.client.get(f"{DISC}/versions").json()["versions"])
    serving = service.client.get(DISC).json()["serving"]
    other = new if serving == old else old
    page = opened(service, view="#product-view")
    page.locator(f'[data-activate="{other}"]').click()
    say_yes(page, "a better one")
    expect(page.locator("#standing")).to_contain_text(other)
    assert service.client.get(DISC).json()["serving"] == other
    page.click("#rollback")
    page.keyboard.press("Escape")
    assert service.client.get(DISC).json()["serving"] == other
    page.click("#rollback")
    say_yes(page)
    expect(page.locator("#standing")).to_contain_text(serving)
    expect(page.locator('tr[data-serving="true"]')).to_contain_text(serving)


def test_a_candidate_inspects_in_shadow_until_its_run_is_ended(service, opened):
    page = opened(service, view="#product-view")
    page.get_by_role("button", name="Run in shadow").and_(page.locator(":enabled")).click()
    say_yes(page)
    expect(page.locator("#standing")).to_contain_text("inspects 10% in shadow; verdicts that differ: 0 of 0")
    page.click("#end-shadow")
    say_yes(page)
    expect(page.locator("#standing")).not_to_contain_text("Candidate")


def test_a_threshold_is_previewed_over_the_last_parts_and_then_holds(service, opened):
    for number in range(12):
        post(service, encode((defective_part if number % 4 == 0 else good_part)(100 + number)), f"preview-{number}")
    until(lambda: service.client.get("/v1/inspections", params={"part_id": "preview-11"}).json()["items"])
    scores = [one["score"] for one in service.client.get("/v1/inspections", params={"limit": 12}).json()["items"]]
    chosen = sorted(scores)[5] + 1e-6
    page = opened(service, view="#product-view")
    page.check('input[value="threshold"]')
    page.fill("#value", repr(chosen))
    page.fill("#parts", "10")
    page.click("#preview")
    num_ng = sum(score > chosen for score in scores[:10])
    expect(page.locator("#previewed")).to_contain_text(f"of the last 10 parts, {num_ng} would be defective")
    expect(page.locator("#previewed .dot")).to_have_count(10)
    assert service.client.get(DISC).json()["threshold_from"] == "calibration"
    page.fill("#parts", "9")  # another question: the answer to the one before goes
    expect(page.locator("#previewed")).to_be_empty()
    page.click("#apply")
    say_yes(page)
    expect(page.locator("#threshold-now")).to_contain_text("chosen by value")
    assert service.client.get(DISC).json()["threshold"] == pytest.approx(chosen)
    page.click("#lift")
    say_yes(page, "enough of it")
    expect(page.locator("#threshold-now")).to_contain_text("the version's own")


def test_a_part_is_confirmed_however_large_its_image(service, two_versions, opened):
    image = encode(defective_part(7).resize((96 * 6, 80 * 6)), compress_level=0)
    assert len(image) > 100_000
    page = opened(service)
    choose(page, image)
    page.click("#confirm-ng")
    expect(page.locator(".confirm")).to_contain_text("Recorded as defective")
    (kept,) = (two_versions / "state" / "disc" / "confirmed" / "ng").glob("*.png")
    assert kept.read_bytes() == image


def test_the_page_follows_the_line(service, opened, good_bytes, defective_bytes):
    page = opened(service)
    page.click("#follow")
    # The page's own connection is there once a part comes through it.
    until(lambda: post(service, good_bytes, "first") and "Part first" in page.locator("#verdict").inner_text())
    post(service, defective_bytes, "second")
    expect(page.locator("#verdict")).to_contain_text("Part second")
    expect(page.locator("#verdict")).to_contain_text("DEFECTIVE")
    expect(page.locator("#part")).to_be_visible()
    expect(page.locator("#heatmap")).to_be_visible()
    page.locator("#stage").click()  # who looks closely keeps what is there
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "false")
    post(service, good_bytes, "third")
    expect(page.locator("#strip button").first).to_contain_text("third")
    expect(page.locator("#verdict")).to_contain_text("Part second")


def test_a_lost_connection_is_shown_and_missed_results_appear_afterwards(store_folder, opened, good_bytes, tmp_path):
    settings = {"local": tmp_path / "local", "port": find_free_port()}
    with Service(store_folder, **settings) as service:
        page = opened(service)
        page.click("#follow")
        until(lambda: post(service, good_bytes, "first") and "Part first" in page.locator("#verdict").inner_text())
        service.process.kill()
        expect(page.locator("#verdict")).to_contain_text("the service does not answer")
        expect(page.locator("#verdict")).to_have_attribute("data-verdict", "none")
    with Service(store_folder, **settings) as service:
        post(service, good_bytes, "meanwhile")
        expect(page.locator("#strip")).to_contain_text("meanwhile", timeout=10_000)
    page.wrong.clear()  # connections that were refused


def test_an_answer_that_comes_late_shows_nothing_any_more(service, opened, good_bytes, defective_bytes):
    slow = []
    page = opened(service)
    page.route("**/inspect?*part_id=slow*", lambda route: slow.append(route))  # noqa: PLW0108  # it wants a function
    choose(page, defective_bytes, "slow.png")
    expect(page.locator("#verdict")).to_contain_text("Inspecting")
    until(lambda: page.wait_for_timeout(10) or slow)
    choose(page, good_bytes, "fast.png")
    expect(page.locator("#verdict")).to_contain_text("Part fast")
    slow[0].continue_()
    expect(page.locator("#strip button").first).to_contain_text("slow")
    expect(page.locator("#verdict")).to_contain_text("Part fast")


def post(service, image, part_id):
    return service.client.post(f"{DISC}/inspect", content=image, headers=PNG, params={"part_id": part_id}).is_success


def test_everything_is_said_in_chinese_too(service, opened, good_bytes):
    page = opened(service)
    choose(page, good_bytes)
    page.click("#language")
    expect(page.locator("#verdict")).to_contain_text("合格")
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    english, chinese, blanks = page.evaluate(
        """async () => {
            const { WORDS } = await import("/console/words.js");
            const blanks = (text) => (text.match(/\\{\\w+\\}/g) ?? []).sort().join();
            return [WORDS.en, WORDS.zh].map(Object.keys).concat([
                Object.keys(WORDS.en).filter((word) => blanks(WORDS.en[word]) !== blanks(WORDS.zh[word]))]);
        }"""
    )
    assert english == chinese
    assert blanks == []
    page.reload()
    expect(page.locator("nav")).to_contain_text("检测")


def test_health_drift_and_throughput_are_shown(service, opened, good_bytes):
    page = opened(service, view="#health")
    expect(page.locator("#readiness")).to_contain_text("Ready")
    expect(page.locator("#drift")).to_contain_text("of 200 scores collected for the next check.")
    post(service, good_bytes, "p1")
    expect(page.locator("#throughput")).to_contain_text("disc")
    expect(page.locator("#took")).to_contain_text("ms")


def test_keys_are_requested_and_missing_scopes_are_shown(store_folder, opened, good_bytes):
    keys = {scope: generate_key(scope, [scope]) for scope in ("inspect", "operate")}
    both, line = generate_key("both", ["inspect", "operate"])
    lines = "\n".join([*(key.to_line() for _, key in keys.values()), line.to_line()])
    with Service(store_folder, api_keys=lines) as service:
        page = opened(service, view="#product-view")
        expect(page.locator("#standing")).to_contain_text("send a valid API key")
        page.click('nav a[href="#inspect"]')
        page.click("#key")
        say_yes(page, "ключ")
        expect(page.locator("#trouble")).to_contain_text("a key has no such characters")
        page.click("#key")
        say_yes(page, keys["inspect"][0])
        choose(page, good_bytes)
        expect(page.locator("#verdict")).to_contain_text("GOOD")
        page.click("#confirm-ok")
        expect(page.locator("#trouble")).to_contain_text("this requires an API key with the scope operate")
        page.click("#key")
        say_yes(page, both)
        page.click("#confirm-ok")
        expect(page.locator(".confirm")).to_contain_text("Recorded as good")
        expect(page.locator("#trouble")).to_be_hidden()


def test_what_a_line_calls_a_part_is_text_and_nothing_else(service, opened, good_bytes):
    name = "<img src=x onerror=alert(1)>"
    post(service, good_bytes, name)
    page = opened(service)
    page.locator("#strip button").first.click()
    expect(page.locator("#verdict")).to_contain_text(name)


def test_what_could_not_be_judged_shows_no_verdict_of_the_part_before(service, opened, good_bytes):
    page = opened(service)
    choose(page, good_bytes)
    expect(page.locator("#verdict")).to_contain_text("GOOD")
    choose(page, b"words")
    expect(page.locator("#trouble")).to_contain_text("these bytes are not an image")
    expect(page.locator("#verdict")).to_contain_text("Not inspected")
    expect(page.locator("#verdict")).to_have_attribute("data-verdict", "none")


def test_a_view_is_reached_and_left_by_keyboard_and_keeps_the_focus(service, opened, good_bytes):
    page = opened(service, view="#product-view")
    page.locator("#versions button:enabled").first.wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the content
    expect(page.locator("#view-product-view")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#versions button:enabled").first.focus()
    name = page.evaluate("document.activeElement.dataset.focus")
    post(service, good_bytes, "meanwhile")
    with page.expect_response("**/v1/products"):
        pass
    page.wait_for_timeout(100)
    assert page.evaluate("document.activeElement.dataset.focus") == name
    page.keyboard.press("Enter")
    expect(page.locator("#asking")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#asking")).to_be_hidden()


def test_a_store_without_products_says_so(tmp_path, opened):
    with Service(tmp_path / "empty") as service:
        page = opened(service)
        expect(page.locator("#stage")).to_contain_text("No product has been trained yet")
        page.click('nav a[href="#product-view"]')
        expect(page.locator("#preview")).to_be_disabled()


@pytest.mark.parametrize("light", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_keeps_people_out(service, opened, defective_bytes, size, light):
    page = opened(service, size, color_scheme=light)
    choose(page, defective_bytes)
    page.locator("#heatmap").wait_for()
    for view in ("inspect", "product-view", "health"):
        page.click(f'nav a[href="#{view}"]')
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
        assert [one["id"] for one in found.response["violations"]] == [], found.generate_report()
    page.click("#language")
    assert MISSING not in page.locator("body").inner_text()
