"""Two models on one page, in a real Chromium: a model and the same model without a head."""

from __future__ import annotations

import re

import pytest
from chromium import accessibility_problems, chromium, visit
from npm_tools import install_packages

import circuitlab as cl
from circuitlab.explorer.page import explorer_page
from circuitlab.model.toy import build_planted

pytestmark = pytest.mark.browser

BOTH = ("copy-gqa", "copy-gqa (edited)")


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def payload():
    """Two sets of prompts on both models, and transfer between them as a study stores it."""
    planted = build_planted("copy-gqa")
    without = planted.model.edited(cl.interventions.Knockout(["a0.h0"], "zero"))
    explorer = cl.explore([planted.model, without], [planted.batch(4), planted.batch(6, seed=1)], "activation_patching", measure=[])
    tasks = [task["id"] for task in explorer.payload["tasks"]]
    cell = {"method": "activation_patching", "size": 4, "p": 0.02, "p_corrected": 0.04, "random": {"mean": 0.1, "low": 0.0, "high": 0.2}}
    transfer = [
        cell | {"model": model, "from": one, "to": other, "faithfulness": {"mean": 0.5 + place / 10, "low": 0.3, "high": 0.9}}
        for place, model in enumerate(BOTH)
        for one in tasks
        for other in tasks
    ]
    sentence = "Double dissociation of the two."
    apart = [{"model": BOTH[1], "a": tasks[0], "b": tasks[1], "sentence": sentence, "measures": {"p": 0.01}}]
    return explorer.payload | {"transfer": transfer, "dissociation": apart}


@pytest.fixture(scope="module")
def address(payload, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("two") / "two.html"
    file.write_text(explorer_page(payload), encoding="utf-8")
    return file.as_uri()


def score_of(payload, model: str, task: int) -> str:
    """Id of the scores of a model on the first or the second task."""
    name = payload["tasks"][task]["id"]
    return next(one["id"] for one in payload["scores"] if one["model"] == model and one["task"] == name)


def test_a_model_and_its_edited_self_are_compared(browser, address, payload) -> None:
    a, b = score_of(payload, BOTH[0], 0), score_of(payload, BOTH[1], 0)
    (overlap,) = [one for one in payload["overlap"] if {one["a"], one["b"]} == {a, b}]
    with visit(browser, f"{address}#view=compare") as seen:
        page, compare = seen.page, seen.page.locator("[data-panel=compare]")
        compare.get_by_label("A", exact=True).select_option(a)
        compare.get_by_label("B", exact=True).select_option(b)
        facts = compare.locator("[data-overlap]").inner_text()
        assert re.search(rf"{overlap['count']}\s+of {overlap['k']}", facts)
        assert re.search(rf"by chance\s+{overlap['expected']:.3g}", facts)
        assert "p, corrected" in facts
        assert f"[{overlap['jaccard']['low']:.3g}" in facts
        for name in overlap["shared"]:
            assert compare.get_by_role("button", name=name, exact=True).is_visible()
        sides = compare.get_by_role("heading", level=3).all_inner_texts()
        assert [side.split(": ")[1] for side in sides] == list(BOTH)
        assert compare.get_by_text("edited model").count() == 1
        assert "of the same task" in page.locator("[data-panel=transfer]").inner_text()
        seen.require_quiet()


def test_a_head_of_the_edited_model_opens_its_own_card(browser, address, payload) -> None:
    a, b = score_of(payload, BOTH[0], 0), score_of(payload, BOTH[1], 0)
    with visit(browser, f"{address}#view=compare&a={a}&b={b}") as seen:
        page = seen.page
        page.locator("[data-panel=compare]").get_by_role("grid").nth(1).focus()
        page.keyboard.press("Enter")
        assert page.get_by_label("Model", exact=True).input_value() == BOTH[1]
        page.get_by_role("button", name="Heads", exact=True).click()
        assert page.locator(".clx-choices").get_by_text("edited model").is_visible()
        seen.require_quiet()


def test_transfer_of_both_models_stands_in_one_table(browser, address, payload) -> None:
    a, b = score_of(payload, BOTH[0], 0), score_of(payload, BOTH[1], 1)
    with visit(browser, f"{address}#view=compare&a={a}&b={b}") as seen:
        transfer = seen.page.locator("[data-panel=transfer]")
        rows = transfer.locator("tbody tr").all_inner_texts()
        assert len(rows) == 8
        assert [BOTH[1] in row for row in rows] == [False] * 4 + [True] * 4
        assert all("0.500" in row for row in rows[:4])
        assert all("0.600" in row for row in rows[4:])
        assert f"{BOTH[1]}: Double dissociation of the two." in transfer.inner_text()
        assert "It was not computed for this pair" in seen.page.locator("[data-panel=compare]").inner_text(), "task and model both differ"
        seen.require_quiet()


@pytest.mark.parametrize("phone", [False, True])
def test_two_models_are_compared_without_an_accessibility_problem(browser, address, payload, phone) -> None:
    axe = install_packages() / "axe-core" / "axe.min.js"
    a, b = score_of(payload, BOTH[0], 0), score_of(payload, BOTH[1], 1)
    with visit(browser, f"{address}#view=compare&a={a}&b={b}", scheme="dark", phone=phone) as seen:
        assert accessibility_problems(seen.page, axe) == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= seen.page.viewport_size["width"]
        seen.require_quiet()
