"""Pictures of the console before the demonstration's service: `make screenshots`. Takes Debian's chromium."""

import argparse
import json
import shutil
from pathlib import Path

import httpx2
from playwright.sync_api import Browser, Page, sync_playwright

NUM_PARTS = 24
DESKTOP, TABLET = {"width": 1280, "height": 1000}, {"width": 820, "height": 1180}


def main() -> None:
    """Judge some parts, then take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--into", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    service = json.loads((given.demo / "service.json").read_text())
    parts = list_parts(given.demo / "data" / "test")
    judge(service["url"], parts)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, take in {"console": console, "console-tablet": tablet, "console-versions": versions}.items():
            page = take(browser, service["url"], parts)
            page.screenshot(path=given.into / f"{name}.png", full_page=True)
            print(given.into / f"{name}.png")
        browser.close()


def list_parts(folder: Path) -> list[Path]:
    """Return good and defective parts in turn, a scratched one last."""
    good = sorted(folder.glob("good/*.png"))
    defective = sorted(path for path in folder.glob("*/*.png") if path.parent.name != "good")
    mixed = [path for three in zip(good, good[::-1], defective, strict=False) for path in three][: NUM_PARTS - 1]
    return [*mixed, next(path for path in defective if path.parent.name == "scratch")]


def judge(address: str, parts: list[Path]) -> None:
    """What the line does."""
    with httpx2.Client(base_url=address) as client:
        for part in parts:
            query = {"heatmap": "none", "part_id": f"{part.parent.name}-{part.stem}"}
            headers = {"Content-Type": "image/png"}
            url = "/v1/products/flange/inspect"
            client.post(url, content=part.read_bytes(), headers=headers, params=query).raise_for_status()


def open_console(browser: Browser, address: str, *, view: str = "", **options: object) -> Page:
    """Open the console at a view, once it knows its products."""
    page = browser.new_context(locale="en-GB", **options).new_page()
    page.goto(f"{address}/{view}")
    page.locator("#product option").wait_for(state="attached")
    return page


def show_part(page: Page, part: Path) -> Page:
    """Show this part inspected."""
    page.set_input_files("#file", part)
    page.locator("#heatmap").wait_for()
    page.wait_for_function("document.querySelectorAll('#strip li').length > 1")
    return page


def console(browser: Browser, address: str, parts: list[Path]) -> Page:
    """A defective part."""
    return show_part(open_console(browser, address, viewport=DESKTOP), parts[-1])


def tablet(browser: Browser, address: str, parts: list[Path]) -> Page:
    """The same in the dark, in Chinese, on a tablet."""
    page = show_part(open_console(browser, address, viewport=TABLET, color_scheme="dark"), parts[-1])
    page.click("#language")
    return page


def versions(browser: Browser, address: str, parts: list[Path]) -> Page:
    """A threshold looked at before it holds."""
    page = open_console(browser, address, view="#product-view", viewport=DESKTOP)
    page.fill("#value", "0.1")
    page.fill("#parts", str(len(parts)))
    page.click("#preview")
    page.locator("#previewed .dot").first.wait_for()
    return page


if __name__ == "__main__":
    main()
