"""Every setting of the service, read from the environment in this module and nowhere else."""

import re
from base64 import b64decode
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.parameters import ModelConfig, Size
from app.pictures.provenance import Provenance
from app.pictures.signing import Signer

SHORTEST_KEY = 16
"""Characters of an API key: fewer could be guessed."""

ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,8}")
"""A path below which the service is found: it gets into pages, so nothing else may be in it."""

ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
"""Scheme, host and, where it is not the scheme's, port."""

Seconds = Annotated[float, Field(gt=0)]


def _parse_size(value: object) -> object:
    if not isinstance(value, str):
        return value
    width, separator, height = value.lower().partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise ValueError(f"a size is written WIDTHxHEIGHT, such as 512x512, not {value!r}")
    return int(width), int(height)


class Settings(BaseSettings):
    """One field per environment variable, named after it with the prefix ``VARIATIONS_``.

    The text below a field describes it in the README. An empty variable is as one that is not set.
    """

    model_config = SettingsConfigDict(
        env_prefix="VARIATIONS_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        str_strip_whitespace=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    model: str = "demo"
    """`demo` (built in), a Hugging Face Hub id, or a local folder."""
    revision: str | None = None
    """Revision of a hub checkpoint; empty takes the known one, else `main`."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, …; `auto` is the GPU where torch has one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: float16 on CUDA; bfloat16 on a CPU that has it, else float32."""
    cuda_graphs: Literal["on", "off"] = "on"
    """On a GPU, record the UNet's kernels at start for each bucket and size; `off` takes less
    memory and time to start, and longer steps where they are small."""
    compile: Literal["on", "off"] = "off"
    """`on` compiles the UNet beside the first requests, for some minutes, and keeps that for later
    starts; needs a C++ compiler. Until then, and where it fails, steps run eagerly, which
    `variations_tuning_info` tells. With a fixed bucket the service is ready when it is compiled.
    It gains little on a CPU, and has not been measured on a GPU."""
    attention_slicing: Literal["off", "auto", "max"] = "off"
    """Less memory, slower: attention in slices instead of SDPA."""
    vae_slicing: bool = False
    """Less memory: decode one picture at a time within a batch."""
    safety_checker: Literal["on", "off"] = "on"
    """`on` refuses a checkpoint without one; `off` serves unchecked pictures."""
    previews: Literal["auto", "on", "off"] = "auto"
    """Show requests that wish it what their pictures become while they are made. Nothing checks
    these previews, so `auto` offers them only where the safety checker is off."""
    training_index: str | None = None
    """Folder that `train index` wrote: each variation is compared with the pictures that the model
    was trained on, and a near-copy marked. Empty: they are not compared."""
    training_names: bool = False
    """Tell callers which training picture a near-copy is of, by its name in the data set."""
    sizes: Annotated[tuple[Annotated[Size, BeforeValidator(_parse_size)], ...], NoDecode] = ()
    """Output sizes offered, as `512x512,768x512`; empty: the checkpoint's own."""
    max_rows: Literal["auto"] | Annotated[int, Field(ge=2, le=1024)] = "auto"
    """Most UNet rows in one step; `auto` measures at start how many still pay."""
    fixed_bucket: bool = False
    """Pad every step to the one largest bucket: same seed, same bytes, less speed."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    max_queue: int = Field(default=64, ge=1)
    """Requests accepted, each with its whole form, whose answer is not yet read; more are refused
    with 429. API keys in use share them evenly."""
    key_quota: int | None = Field(default=None, ge=1)
    """Most such requests of one API key, or of all callers where there are no keys; more are
    refused with 429. Empty: an even share among the keys in use."""
    request_timeout: Seconds = 300.0
    """Seconds from acceptance to the answer; what cannot be done by then is refused with 503. A
    caller may ask for less with `X-Request-Timeout`."""
    drain_timeout: Seconds = 330.0
    """Seconds after SIGTERM in which accepted requests are finished."""
    step_timeout: Seconds = 30.0
    """Seconds without a finished step, or ten times what a step should take if that is longer,
    after which a worker is killed and replaced."""
    start_timeout: Seconds = 900.0
    """Seconds without progress after which a worker that is starting is killed."""
    on_failure: Literal["exit", "stay"] = "exit"
    """Where the worker can never start: `exit` with status 3, for whoever watches the process;
    `stay` to tell the reason on `/readyz`."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma-separated keys, one of which a request must bring as `Authorization: Bearer KEY`.
    Empty: open to all, on loopback only."""
    allow_anonymous: bool = False
    """Listen beyond loopback without API keys all the same."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated origins whose pages may call this in a browser; empty: none."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated names that requests may call the service by, `*.example.org` for all below
    one. Empty: its own on loopback without API keys, elsewhere any."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ("127.0.0.1", "::1")
    """Comma-separated addresses or networks of proxies whose `X-Forwarded-…` headers are believed;
    `*`: of all."""
    root_path: str = ""
    """Path below which a proxy shows the service, such as `/variations-api`, where that proxy does
    not say so in `X-Forwarded-Prefix`."""
    upload_timeout: Seconds = 60.0
    """Seconds in which a request's head, then its body must have arrived, and its answer must have
    been read."""
    keep_alive: int = Field(default=75, ge=1)
    """Seconds for which a connection is kept open for a further request: longer than the proxy in
    front keeps its own, which usually is 60."""
    max_upload_bytes: int = Field(default=20 * 2**20, ge=1024)
    """Most bytes of a request's body."""
    max_pixels: int = Field(default=50_000_000, ge=1024, le=178_956_970)
    """Most pixels of an uploaded picture, from its header; Pillow allows no more."""
    decoders: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Uploads decoded at once, each by a process of its own; `auto`: one for each core, at most
    4."""
    decode_timeout: Seconds = 60.0
    """Seconds in which an upload must be decoded; what takes longer gets 413."""
    decode_cpu_seconds: int = Field(default=20, ge=1)
    """Seconds of the processor that decoding an upload may take; more gets 413."""
    provenance: Provenance = Provenance.FULL
    """What files say of how their pictures were made: `full` is all that `generate --like` needs to
    repeat them, the embedding of the uploaded picture among it; `minimal` leaves that out; `off` is
    nothing, not even that a model made them."""
    c2pa_certificate: Path | None = None
    """PEM file with the certificate that files are signed with (C2PA), and those that lead from it
    to an authority; needs the extra `c2pa`. Empty: they are not signed."""
    c2pa_key: Path | None = None
    """PEM file with its private key, without a passphrase."""
    url_seconds: Seconds = 3600.0
    """Seconds for which a picture is found at the URL that an answer to OpenAI's SDK tells."""
    url_bytes: int = Field(default=128 * 2**20, ge=2**20)
    """Most bytes of such pictures, in memory; where there are more the oldest go, of the API key
    that has the most."""
    store: Path | None = None
    """File of the database of stored requests, which then survive a restart; one service has it at
    a time. Empty: in memory."""
    store_seconds: Seconds = 86400.0
    """Seconds for which the result of a stored request is kept."""
    store_bytes: int = Field(default=256 * 2**20, ge=2**20)
    """Most bytes of stored requests; where there are more the oldest results go, of the API key
    that has the most."""
    webhook_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated origins, as `https://hooks.example.org`, that stored requests may have told
    of their end; empty: none."""
    webhook_secret: SecretStr | None = None
    """What webhooks are signed with: `whsec_` and 24 to 64 bytes in base64 (Standard Webhooks)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`auto` is text on a terminal and JSON lines elsewhere."""
    otlp_endpoint: str | None = None
    """Where traces go, as `http://collector:4318` (OTLP over HTTP); needs the extra `otel`. Empty:
    nowhere."""

    def names(self) -> tuple[str, ...]:
        """Names that the service may be called by; none: any."""
        if self.allowed_hosts or self.api_keys or not _is_loopback(self.host):
            return self.allowed_hosts
        return tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", self.host)))

    def offers_previews(self) -> bool:
        """A request may have previews."""
        return self.previews == "on" or (self.previews == "auto" and self.safety_checker == "off")

    def signer(self) -> Signer | None:
        """What signs files; ``None`` where nothing does.

        Raises :class:`ValueError` where the certificate and its key will not do.
        """
        if self.c2pa_certificate is None or self.c2pa_key is None:
            return None
        return Signer(self.c2pa_certificate, self.c2pa_key)

    def to_model_config(self) -> ModelConfig:
        """The part of the settings that says which checkpoint to load and how."""
        return ModelConfig(
            model=self.model,
            revision=self.revision or None,
            device=self.device,
            dtype=self.dtype,
            cuda_graphs=self.cuda_graphs == "on",
            compile=self.compile == "on",
            attention_slicing=self.attention_slicing,
            vae_slicing=self.vae_slicing,
            safety_checker=self.safety_checker == "on",
            sizes=self.sizes,
            training_index=self.training_index or None,
            training_names=self.training_names,
        )

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        if value.startswith("["):
            raise ValueError("an IPv6 address stands without brackets, such as ::1")
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _check_port(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith(("tcp://", "udp://")):
            raise ValueError(
                "Kubernetes sets this variable where a Service is called variations: give the "
                "Service another name, or the pod enableServiceLinks: false"
            )
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_extra(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"an address begins with http:// or https://, unlike {value!r}")
        if value and find_spec("opentelemetry.sdk") is None:
            raise ValueError("traces need the extra otel; the README says how to install it")
        return value or None

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if value and not ROOT_PATH.fullmatch(value.rstrip("/")):
            raise ValueError("a path is written like /variations-api, of letters, digits and ._~-")
        return value.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            if proxy != "*":
                ip_network(proxy)  # says what is wrong
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if "/" in name or name.count(":") == 1:
                raise ValueError(f"a name stands without scheme, port and path, unlike {name!r}")
        return value

    @field_validator(
        "sizes",
        "api_keys",
        "cors_origins",
        "allowed_hosts",
        "trusted_proxies",
        "webhook_origins",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in (key.get_secret_value() for key in keys):
            if key.startswith(("[", '"')):
                raise ValueError("keys stand without quotes and brackets, with commas in between")
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ValueError("a key is of letters, digits and signs of ASCII, without spaces")
            if len(key) < SHORTEST_KEY:
                raise ValueError(f"a key has at least {SHORTEST_KEY} characters")
        return keys

    @field_validator("webhook_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"an origin is written https://hooks.example.org, not {origin!r}")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        prefix, _, rest = value.get_secret_value().partition("_") if value else ("", "", "")
        if value and prefix != "whsec":
            raise ValueError("a secret begins with whsec_")
        try:
            length = len(b64decode(rest, validate=True))
        except ValueError:
            length = 0
        if value and not 24 <= length <= 64:
            raise ValueError("behind whsec_ there are 24 to 64 bytes in base64")
        return value

    @model_validator(mode="after")
    def _check_webhooks(self) -> Self:
        if self.webhook_origins and not self.webhook_secret:
            raise ValueError("webhooks are signed: set VARIATIONS_WEBHOOK_SECRET")
        return self

    @model_validator(mode="after")
    def _check_signing(self) -> Self:
        if (self.c2pa_certificate is None) != (self.c2pa_key is None):
            raise ValueError(
                "a signature takes both: set VARIATIONS_C2PA_CERTIFICATE and VARIATIONS_C2PA_KEY, "
                "or neither"
            )
        if self.c2pa_certificate and self.provenance is Provenance.OFF:
            raise ValueError(
                "VARIATIONS_PROVENANCE=off leaves nothing to sign: let it be minimal or full, or "
                "leave VARIATIONS_C2PA_CERTIFICATE empty"
            )
        try:
            self.signer()
        except ValueError as error:
            raise ValueError(f"VARIATIONS_C2PA_CERTIFICATE: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        if not (self.api_keys or self.allow_anonymous or _is_loopback(self.host)):
            raise ValueError(
                f"whoever reaches {self.host} could use the service: set VARIATIONS_API_KEYS, or "
                "VARIATIONS_ALLOW_ANONYMOUS=true where something else keeps strangers out"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
