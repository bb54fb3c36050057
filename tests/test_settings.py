"""Settings come from the environment, and wrong ones are named."""

import re
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.parameters import ModelConfig
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


@pytest.mark.parametrize(
    ("previews", "checker", "offered"),
    [
        ("auto", "on", False),
        ("auto", "off", True),
        ("on", "on", True),
        ("off", "off", False),
    ],
)
def test_unchecked_previews_are_offered_only_where_that_is_wanted(
    previews: Any, checker: Any, offered: bool
) -> None:
    assert Settings(previews=previews, safety_checker=checker).offers_previews() is offered


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


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = getattr(Settings(), name)
    monkeypatch.setenv(f"VARIATIONS_{name.upper()}", "")
    assert getattr(Settings(), name) == default


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("REQUEST_TIMEOUT", "inf", "finite number"),
        ("UPLOAD_TIMEOUT", "nan", "finite number"),
        ("HOST", "[::1]", "without brackets"),
        ("PORT", "tcp://10.0.0.7:8000", "enableServiceLinks"),
        ("API_KEYS", '["a-key-of-enough-letters"]', "without quotes and brackets"),
        ("API_KEYS", "a key of enough letters", "without spaces"),
        ("API_KEYS", "schl\u00fcssel-genug-lang", "ASCII"),
        ("API_KEYS", "tab\tin-a-key-of-letters", "ASCII"),
    ],
)
def test_what_is_often_mistyped_is_explained(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    monkeypatch.setenv(f"VARIATIONS_{name}", text)
    with pytest.raises(ValidationError, match=says):
        Settings()


def test_spaces_around_a_value_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_MODEL", " demo ")
    monkeypatch.setenv("VARIATIONS_HOST", "127.0.0.1 ")
    settings = Settings()
    assert (settings.model, settings.host) == ("demo", "127.0.0.1")


def test_a_connection_is_kept_for_longer_than_balancers_keep_theirs() -> None:
    assert Settings().keep_alive > 60


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", "…")), name


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_keys_are_needed(host: str) -> None:
    with pytest.raises(ValidationError, match="VARIATIONS_API_KEYS"):
        Settings(host=host)
    assert Settings(host=host, allow_anonymous=True).host == host
    assert Settings(host=host, api_keys="a-key-of-enough-letters").host == host  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_loopback_no_keys_are_needed(host: str) -> None:
    assert Settings(host=host).api_keys == ()


def test_a_key_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 16 characters"):
        Settings(api_keys="secret")  # type: ignore[arg-type]


def test_the_model_config_is_the_part_that_concerns_the_checkpoint() -> None:
    settings = Settings(revision="", dtype="float32", safety_checker="off", sizes=((96, 64),))
    assert settings.to_model_config() == ModelConfig(
        model="demo", revision=None, dtype="float32", safety_checker=False, sizes=((96, 64),)
    )


@pytest.mark.parametrize("name", ["STEP_TIMEOUT", "START_TIMEOUT"])
def test_a_worker_has_time_to_do_something(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"VARIATIONS_{name}", "0")
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("VARIATIONS_ROOT_PATH", "variations", "/variations-api"),
        ("VARIATIONS_ROOT_PATH", "//evil", "/variations-api"),
        ("VARIATIONS_ROOT_PATH", "/a/<b>", "/variations-api"),
        ("VARIATIONS_TRUSTED_PROXIES", "10.0.0.1/8", "host bits"),
        ("VARIATIONS_TRUSTED_PROXIES", "proxy.example", "IPv4 or IPv6"),
        ("VARIATIONS_ALLOWED_HOSTS", "https://example.org", "without scheme"),
        ("VARIATIONS_ALLOWED_HOSTS", "example.org:8000", "without scheme, port"),
    ],
)
def test_what_is_behind_a_proxy_is_checked(
    variable: str, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValidationError, match=says):
        Settings()


def test_a_root_path_may_end_with_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_ROOT_PATH", "/variations-api/")
    assert Settings().root_path == "/variations-api"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ("localhost", "127.0.0.1", "::1")),
        ({"host": "127.0.0.2"}, ("localhost", "127.0.0.1", "::1", "127.0.0.2")),
        ({"api_keys": ("0123456789abcdef",)}, ()),
        ({"host": "0.0.0.0", "allow_anonymous": True}, ()),
        ({"allowed_hosts": ("example.org",)}, ("example.org",)),
    ],
)
def test_on_loopback_without_keys_the_service_has_names_of_its_own(
    given: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert Settings(**given).names() == names


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"c2pa_key": "key.pem"}, "a signature takes both"),
        (
            {"c2pa_certificate": "a.pem", "c2pa_key": "b.pem", "provenance": "off"},
            "nothing to sign",
        ),
        ({"c2pa_certificate": "a.pem", "c2pa_key": "b.pem"}, "C2PA_CERTIFICATE: a.pem cannot be"),
    ],
)
def test_signing_with_half_of_what_it_takes_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"webhook_origins": ("https://a.example",)}, "set VARIATIONS_WEBHOOK_SECRET"),
        ({"webhook_origins": ("a.example",)}, "is written https://hooks.example.org"),
        ({"webhook_origins": ("https://a.example/path",)}, "is written https://hooks.example.org"),
        ({"webhook_secret": SecretStr("secret")}, "begins with whsec_"),
        ({"webhook_secret": SecretStr("whsec_c2hvcnQ=")}, "24 to 64 bytes in base64"),
        ({"webhook_secret": SecretStr("whsec_$$$")}, "24 to 64 bytes in base64"),
    ],
)
def test_webhooks_go_to_origins_and_are_signed(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        Settings(**given)
