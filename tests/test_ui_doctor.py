"""The doctor's button in the page: its lines, to be copied into a bug report."""

import pytest
from browser import (
    browser,  # noqa: F401
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
    workbench,  # noqa: F401
)

pytestmark = needs_browser


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_page_tells_what_works_on_this_machine(workbench, open_page, locale):  # noqa: F811
    page = open_page(workbench.url + "/#runs", locale=locale)
    assert page.locator("#doctor-told").count() == 0
    page.click("#doctor-ask")
    told = lambda: page.inner_text("#doctor-told")
    wait_for(lambda: "Training works here." in told(), 90, told)
    text = told()
    # The page itself holds no torch, and could not say this.
    assert "✓ torch" in text and "✓ packed" in text and "TFLOP/s" in text and "✗" not in text
    assert page.locator("#doctor-ask").is_enabled()
    page.locator("#doctor-told").scroll_into_view_if_needed()
    screenshot(page, f"doctor-{locale}")
