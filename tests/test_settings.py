"""Settings come from the environment, and wrong ones are named."""

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VARIATIONS_{name.upper()}", raising=False)


def test_nothing_needs_to_be_set() -> None:
    settings = Settings()
    assert (settings.model, settings.host, settings.port) == ("demo", "127.0.0.1", 8000)


def test_a_variable_of_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_MODEL", "someone/something")
    monkeypatch.setenv("VARIATIONS_PORT", "9000")
    monkeypatch.setenv("VARIATIONS_FIXED_BUCKET", "true")
    settings = Settings()
    assert (settings.model, settings.port, settings.fixed_bucket) == (
        "someone/something",
        9000,
        True,
    )


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_PORT", "9000")
    assert Settings(port=9001).port == 9001


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("", ()), ("512x512", ((512, 512),)), ("512x512, 768X512,", ((512, 512), (768, 512)))],
)
def test_sizes_are_a_list_of_width_times_height(
    monkeypatch: pytest.MonkeyPatch, text: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    monkeypatch.setenv("VARIATIONS_SIZES", text)
    assert Settings().sizes == sizes


@pytest.mark.parametrize(("text", "rows"), [("auto", "auto"), ("16", 16)])
def test_the_cap_is_measured_or_a_number(
    monkeypatch: pytest.MonkeyPatch, text: str, rows: object
) -> None:
    monkeypatch.setenv("VARIATIONS_MAX_ROWS", text)
    assert Settings().max_rows == rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SIZES", "512"),
        ("SIZES", "512xbig"),
        ("MAX_ROWS", "1"),
        ("PORT", "65536"),
        ("MAX_QUEUE", "0"),
        ("REQUEST_TIMEOUT", "0"),
        ("DTYPE", "int8"),
        ("SAFETY_CHECKER", "maybe"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"VARIATIONS_{name}", text)
    with pytest.raises(ValidationError) as refusal:
        Settings()
    assert refusal.value.errors()[0]["loc"][0] == name.lower()


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", "…")), name
