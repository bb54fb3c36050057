"""The page of figures is the one that its command writes."""

from tests.chaos.report import FIGURES, PAGE, written


def test_the_page_shows_the_figures_that_were_recorded() -> None:
    assert FIGURES.exists()
    assert written(PAGE.read_text()) == PAGE.read_text(), "python -m tests.chaos.report"
