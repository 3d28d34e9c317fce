"""Every setting of cliptune: its variable, its meaning, its default, and what it may be.

The settings of a process are the `CLIPTUNE_…` variables of its environment; arguments and options
of commands win over them::

    settings = Settings.read(precision=precision)  # None: as the environment has it

What serves (a Flow's gateway, its executors) reads them where its process starts, and hands them
on. Functions of the library, which anybody may call at any time, ask `current`.
`docs/settings.md` and the help of commands are made of what stands here.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar, cast, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cliptune.errors import BadInput, shown

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes of one machine share their metrics; prometheus_client reads it when imported."""
MOST = 2**31 - 1
"""The largest of any whole number here."""
MAX_DOCS = 256
"""Documents in one request, unless a server's operator says otherwise."""

Precision = Literal["fp32", "int8", "bf16"]
"""In which a tower computes."""
Engine = Literal["torch", "onnx", "openvino"]
"""What computes it: torch, ONNX Runtime or OpenVINO."""
ENGINES: tuple[Engine, ...] = get_args(Engine)
EngineOrAuto = Literal[Engine, "auto"]
"""`auto`: the one that is quickest where it runs."""

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Readers = tuple[Literal["client", "library", "search Flow", "train Flow"], ...]
"""Who asks for a setting: those who call a server; training, evaluation and the command line; the
processes of a Flow."""

_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_HUB_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class About:
    """What people are told of a setting."""

    meaning: str
    """In Markdown, without a period."""
    unit: str = ""
    """What a number counts."""
    default: str = ""
    """The default in words, where it isn't a value that can be written down."""
    allowed: str = ""
    """What may be given, in words, where the type doesn't tell."""
    read_by: Readers = ()
    """Who asks for it; empty: those who ask for the others of its section."""


_SEARCH: Readers = ("search Flow",)
_TRAIN: Readers = ("train Flow",)
_FLOWS: Readers = (*_SEARCH, *_TRAIN)


def _whole(value: object) -> object:
    """Refuse what `int` would read and people would not: `1_000`, digits of other scripts, 1e3."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("")  # what may stand there is told by `allowed`
    return value


def _split(value: object) -> object:
    """The values of a text, separated by commas."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return value


def _networks(value: object) -> object:
    """Addresses and networks, separated by commas."""
    try:
        return tuple(map(ipaddress.ip_network, cast("tuple[str, ...]", _split(value))))
    except ValueError as error:
        raise ValueError(
            f"{error}: use addresses or networks such as 10.0.0.0/8, separated by commas"
        ) from None


def _hub_models(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _HUB_MODEL.fullmatch(name):
            raise ValueError(
                f"{name!r} is neither an organisation nor the beginning of ORG/NAME, such as laion "
                "or timm/vit_"
            )
    return names


def _root_path(value: str) -> str:
    value = value.rstrip("/")
    if value and not _PATH.fullmatch(value):
        raise ValueError("")
    return value


def _public_url(value: str) -> str:
    value = value.rstrip("/")
    try:
        parts = urlsplit(value)
    except ValueError:
        raise ValueError("") from None
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if value and (parts.scheme not in ("http", "https") or not parts.netloc or not plain):
        raise ValueError("")
    return value


def _folder(path: Path) -> Path:
    return path.expanduser().absolute()


def _collector(value: str) -> str:
    try:
        parts = urlsplit(value)
        complete = bool(parts.hostname and parts.port)
    except ValueError:
        complete = False
    if not complete or parts.scheme not in ("http", "https"):
        raise ValueError("")
    return value


Count = Annotated[int, BeforeValidator(_whole), Ge(1), Le(MOST)]
Port = Annotated[int, BeforeValidator(_whole), Ge(1), Le(65535)]
PortOrNone = Annotated[int, BeforeValidator(_whole), Ge(0), Le(65535)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
File = Annotated[Path, AfterValidator(Path.absolute)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]


def _told(
    value: T,
    meaning: str,
    *,
    unit: str = "",
    default: str = "",
    allowed: str = "",
    read_by: Readers = (),
    secret: bool = False,
) -> T:
    """A field with the default `value`; `repr` leaves out a secret. The rest is its `About`."""
    field = FieldInfo(default=value, repr=not secret)
    field.metadata.append(About(meaning, unit, default, allowed, read_by))
    return cast(T, field)


def variable_of(field: str) -> str:
    """The environment variable of a field: `CLIPTUNE_HOME` of `home`."""
    return f"CLIPTUNE_{field.upper()}"


def asked_engine(engine: EngineOrAuto | None, is_onnx: bool) -> EngineOrAuto | None:
    """The engine that is meant by `engine` and `is_onnx`, its name in Finetuner's calls.

    Raises:
        BadInput: they contradict each other.
    """
    if is_onnx and engine not in (None, "onnx"):
        raise BadInput(f"ONNX asks for the engine 'onnx', and engine is {engine!r}: give only one")
    return "onnx" if is_onnx else engine


class Section(BaseSettings):
    """Settings that belong together; a section's docstring is its title."""

    read_by: ClassVar[Readers] = ()
    """Who asks for them, but for those that say otherwise."""

    model_config = SettingsConfigDict(
        alias_generator=variable_of,
        case_sensitive=True,
        defer_build=True,  # importing this module is to be quick
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )


class CommonSettings(Section):
    """Everywhere."""

    read_by: ClassVar[Readers] = ("client", "library", *_FLOWS)

    home: Annotated[
        Folder,
        About(
            "where runs, data sets, caches, logs and the index are kept",
            default="`~/.cliptune`",
            allowed="a folder",
        ),
    ] = Field(default_factory=lambda: Path.home() / ".cliptune")
    cache_gb: Annotated[float, Ge(0)] = _told(
        50.0,
        "that the decoded pictures of past trainings may take on disk before the oldest go",
        read_by=("library",),
        unit="gigabytes",
    )
    max_pixels: Count = _told(
        50_000_000, "of a picture, by its header, before it is decoded", unit="pixels"
    )
    max_picture: Count = _told(100 * 2**20, "of a picture", unit="bytes")
    fetch: bool = _told(
        True,
        "0 forbids fetching pictures by URL in the user's own process (`encode`, tables)",
        read_by=("client", "library"),
    )
    fetch_bytes: Count = _told(32 * 2**20, "of one picture that is fetched", unit="bytes")
    fetch_seconds: Count = _told(10, "in which it must have arrived", unit="seconds")
    offline: bool = _told(
        False,
        "1 asks no hub for models: what `cliptune download` has fetched counts",
        read_by=("library", *_FLOWS),
    )


class ClientSettings(Section):
    """Clients."""

    read_by: ClassVar[Readers] = ("client",)

    server: str | None = _told(
        None,
        "the train Flow that calls for runs, experiments and data go to",
        default="none: this machine",
        allowed="an address such as grpc://host:52000",
    )
    search_server: str = _told(
        "grpc://localhost:51000",
        "the search Flow that commands ask",
        allowed="an address such as grpc://host:51000",
    )
    api_key: str | None = _told(None, "the key that clients send", allowed="a key", secret=True)
    ca_file: str | None = _told(
        None,
        "certificates (PEM) to trust, for a server with one of your own making",
        default="the usual authorities",
        allowed="a file",
    )


class ServedModelSettings(Section):
    """What is served."""

    read_by: ClassVar[Readers] = _SEARCH

    artifact: str = _told("builtin", "the model", allowed="an artifact's path, or a model's name")
    engine: EngineOrAuto | None = _told(
        None,
        "[what runs the model](how-to/engines.md); `auto` measures which is quickest",
        default="`onnx` in int8, else `torch`",
    )
    onnx: bool = _told(False, "1: as `CLIPTUNE_ENGINE=onnx`")
    precision: Precision = _told(
        "fp32", "the weights' precision, where [`cliptune quantize`](how-to/quantise.md) added it"
    )
    device: str | None = _told(
        None,
        "where torch runs the towers",
        default="the accelerator that is there",
        allowed="`cpu`, `cuda`, `cuda:1`",
    )
    compile: bool | None = _told(
        None, "whether torch compiles the towers", default="1 on a GPU, else 0"
    )
    index: str | None = _told(
        None,
        "the index; it may be in [Milvus](milvus.md)",
        default="`index` in `CLIPTUNE_HOME`",
        allowed="a folder, or a collection's address",
    )
    index_storage: Literal["float32", "float16"] | None = _told(
        None,
        "how a new index keeps embeddings; [half the room](scaling.md#half-the-room-float16) by "
        "float16",
        default="as the index has it, else `float32`",
    )
    generations: str | None = _told(
        None,
        "where it is kept [which model is current](swap.md#elsewhere), with copies of the models",
        default="with the index",
        allowed="a folder",
    )
    milvus_token: str | None = _told(
        None, "what Milvus asks for", allowed="an API key, or `name:password`", secret=True
    )
    pictures: Folder | None = _told(
        None,
        "where the pictures of an index in Milvus are",
        default="`pictures` in `CLIPTUNE_HOME`",
        allowed="a folder",
    )

    @field_validator("onnx")
    @classmethod
    def _agrees_with_engine(cls, value: bool, info: ValidationInfo) -> bool:
        asked_engine(info.data.get("engine"), value)
        return value


class RecordingSettings(Section):
    """What is recorded."""

    read_by: ClassVar[Readers] = _SEARCH

    record_searches: Annotated[Path | None, AfterValidator(lambda path: path and _folder(path))] = (
        _told(
            None,
            "where [searches are recorded](search-log.md), and what people chose of their answers",
            default="none: nothing is recorded",
            allowed="a folder",
        )
    )
    record_days: Count = _told(
        90, "for which they are kept; files of older days are removed", unit="days"
    )


class NetworkSettings(Section):
    """Where it listens."""

    read_by: ClassVar[Readers] = _FLOWS

    host: str | None = _told(
        None,
        "the address that gateways listen on, and executors of their own for `/metrics`",
        default="127.0.0.1",
        allowed="an address of this machine, `0.0.0.0` for all of them",
    )
    grpc_port: Port | None = _told(None, "for gRPC", default="51000; training 52000", unit="port")
    http_port: Port | None = _told(
        None, "for HTTP and the search page", default="51001; training 52001", unit="port"
    )
    clip_service_port: PortOrNone | None = _told(
        None,
        "for gRPC of clip-as-service's clients; 0: none",
        read_by=_SEARCH,
        default="51002",
        unit="port",
    )
    metrics_port: Port | None = _told(
        None, "for `/metrics` alone", default="the HTTP port", unit="port"
    )
    root_path: Annotated[str, AfterValidator(_root_path)] = _told(
        "",
        "the path that the service lives below behind a proxy",
        allowed="a path such as /search-by-picture",
    )
    public_url: Annotated[str, AfterValidator(_public_url)] = _told(
        "",
        "the service's address as its users know it; `image_url` of matches begins with it",
        read_by=_SEARCH,
        allowed="one such as https://search.shop.example",
    )
    trusted_proxies: Networks = _told(
        (),
        "proxies whose `X-Forwarded-…` headers are believed",
        allowed="addresses or networks, separated by commas",
    )
    drain: Count = _told(
        30, "in which a server that was told to end answers what it has taken", unit="seconds"
    )


class AccessSettings(Section):
    """Who may ask."""

    read_by: ClassVar[Readers] = _FLOWS

    api_keys_file: File | None = _told(
        None,
        "the keys that the server knows",
        default="none: everybody may do everything",
        allowed="a file of `cliptune keys`",
    )
    ssl_certfile: File | None = _told(
        None,
        "the server's certificate, with its chain",
        default="none: no TLS",
        allowed="a file (PEM)",
    )
    ssl_keyfile: File | None = _told(
        None, "the certificate's key; the two go together", allowed="a file (PEM)"
    )
    cors_origins: Texts = _told(
        (), "web sites whose pages may call the server", allowed="origins, separated by commas"
    )
    allowed_hosts: Texts = _told(
        (),
        "the names that the server answers to",
        default="any",
        allowed="host names, separated by commas",
    )
    allow_uris: Texts = _told(
        (),
        "prefixes below which pictures are read by URI",
        read_by=_SEARCH,
        allowed="http, https or file URIs, separated by commas",
    )
    allow_networks: Networks = _told(
        (),
        "private networks from which they may be read",
        read_by=_SEARCH,
        allowed="networks, separated by commas",
    )
    hub_models: Annotated[Texts, AfterValidator(_hub_models)] = _told(
        (),
        "models of the Hugging Face hub that clients may name",
        read_by=_TRAIN,
        allowed="organisations, or beginnings of `ORG/NAME`, separated by commas",
    )


class LimitSettings(Section):
    """How much."""

    read_by: ClassVar[Readers] = _FLOWS

    max_body: Count = _told(
        64 * 2**20,
        "of one request or WebSocket message; of one request's fetched pictures",
        unit="bytes",
    )
    max_docs: Count = _told(
        MAX_DOCS, "in one request", read_by=("client", *_FLOWS), unit="documents"
    )
    max_text: Count = _told(
        100_000,
        "of one text; the tower reads its first 77 tokens",
        read_by=_SEARCH,
        unit="characters",
    )
    max_all_text: Count = _told(
        1_000_000, "of all texts of a request", read_by=_SEARCH, unit="characters"
    )
    max_values: Count = _told(
        500_000,
        "(numbers, texts, lists, objects) in a request, counted before it is parsed",
        unit="values",
    )
    max_tags: Count = _told(
        1000, "of a document; lists, objects and what they hold count", read_by=_SEARCH, unit="tags"
    )
    max_all_tags: Count = _told(
        50_000, "of all documents of a request", read_by=_SEARCH, unit="tags"
    )
    max_filter: Count = _told(
        10_000, "of a filter, or a tenth as many values as JSON", read_by=_SEARCH, unit="characters"
    )
    max_parameters: Count = _told(20_000, "in a request's parameters", unit="values")
    max_matches: Count = _told(
        100_000,
        "of all queries of a request: queries times (limit + offset), or times `candidates`",
        read_by=_SEARCH,
        unit="matches",
    )
    max_all_pixels: Count = _told(
        1_000_000_000,
        "of all pictures of a request as they are decoded (a large JPEG at a fraction of its "
        "size), by their headers",
        read_by=_SEARCH,
        unit="pixels",
    )
    body_timeout: Count = _told(120, "in which a body must arrive", unit="seconds")
    max_pending: Count = _told(256, "that a gateway works on at once", unit="requests")
    max_pending_docs: Count = _told(
        4096, "of the requests that a gateway works on at once", unit="documents"
    )
    max_held: Count = _told(
        512 * 2**20, "of HTTP bodies that a gateway holds at once", unit="bytes"
    )
    max_waiting: Count = _told(
        256, "that wait for one of an executor's 64 threads", unit="requests"
    )
    max_streams: Count = _told(
        64, "(logs and artifacts) that a train Flow sends at once", read_by=_TRAIN, unit="streams"
    )


class ObservabilitySettings(Section):
    """What is told."""

    read_by: ClassVar[Readers] = _FLOWS

    log_format: Literal["text", "json"] = _told("text", "`json`: one object a line")
    traces: Annotated[str | None, AfterValidator(lambda value: value and _collector(value))] = (
        _told(
            None,
            "where an OpenTelemetry collector takes spans (OTLP over gRPC)",
            allowed="an address such as http://collector:4317",
        )
    )

    @field_validator("log_format", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


SECTIONS: tuple[type[Section], ...] = (
    CommonSettings,
    ClientSettings,
    ServedModelSettings,
    RecordingSettings,
    NetworkSettings,
    AccessSettings,
    LimitSettings,
    ObservabilitySettings,
)
"""The settings by what they concern."""


class Settings(
    ObservabilitySettings,
    LimitSettings,
    AccessSettings,
    NetworkSettings,
    RecordingSettings,
    ServedModelSettings,
    ClientSettings,
    CommonSettings,
):
    """All settings of one process; they don't change."""

    @classmethod
    def read(cls, **given: object) -> Settings:
        """The settings of the environment, and over them those that are `given`, by field.

        A given None stands for what the environment has, an empty text for the default.

        Raises:
            BadInput: a value can't be right; the message names its variable or its argument.
        """
        overrides = {name: value for name, value in given.items() if value is not None}
        # Two names of one thing: an argument by either wins over what the environment has by both.
        if "engine" in overrides:
            overrides.setdefault("onnx", False)
        elif overrides.get("onnx") is True:
            overrides["engine"] = "onnx"
        if unknown := overrides.keys() - cls.model_fields.keys():
            raise TypeError(f"no settings: {', '.join(sorted(unknown))}")
        try:
            # It is the model's `__init__` that asks the environment, and this calls it.
            return cls.model_validate({variable_of(k): value for k, value in overrides.items()})
        except ValidationError as error:
            raise BadInput(_in_words(error, set(overrides))) from None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_blanks(cls, values: Mapping[str, object]) -> Mapping[str, object]:
        """A variable that is empty is none."""
        plain = {k: v.strip() if isinstance(v, str) else v for k, v in values.items()}
        return {name: value for name, value in plain.items() if value != ""}

    @property
    def served_engine(self) -> EngineOrAuto | None:
        """The engine that is asked for, by either of its names; None: the precision's own."""
        return asked_engine(self.engine, self.onnx)

    @property
    def runs_dir(self) -> Path:
        """One folder a run below it, by experiment: `runs/<experiment>/<run>`."""
        return self.home / "runs"

    @property
    def data_dir(self) -> Path:
        """Data sets that were pushed by name."""
        return self.home / "data"

    @property
    def cache_dir(self) -> Path:
        """What can be made again: decoded pictures, the drawn catalogue, unzipped artifacts."""
        return self.home / "cache"

    @property
    def pictures_dir(self) -> Path:
        """Where an index in Milvus has its pictures."""
        return self.pictures or self.home / "pictures"

    @property
    def index_uri(self) -> str:
        """Where the index is: a folder, or a Milvus collection's address."""
        return self.index or str(self.home / "index")

    def generations_of(self, index_uri: str) -> str | None:
        """`generations` of an index that may be another than the one that is served."""
        same = self.index_uri == index_uri or (
            "://" not in index_uri
            and Path(self.index_uri).expanduser().absolute()
            == Path(index_uri).expanduser().absolute()
        )
        return self.generations if same else None

    @property
    def own_paths(self) -> list[str]:
        """What errors for clients must not tell."""
        return [str(self.home), self.artifact, self.index or "", self.generations or ""]

    def tls_files(self) -> dict[str, str]:
        """`ssl_certfile` and `ssl_keyfile` of the gateway; empty: without TLS.

        Raises:
            BadInput: only one of them is given, or they are not a certificate and its key.
        """
        certificate, key = self.ssl_certfile, self.ssl_keyfile
        if not certificate and not key:
            return {}
        if not certificate or not key:
            raise BadInput(
                "CLIPTUNE_SSL_CERTFILE and CLIPTUNE_SSL_KEYFILE go together: only one of them "
                "is set"
            )
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except ssl.SSLError as error:  # in words such as "PEM lib"
            raise BadInput(
                f"TLS: {certificate} is no certificate in PEM, or {key} is not its key, without a "
                f"password ({error.reason or error})"
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadInput(f"TLS: {certificate} with {key}: {reason}") from None
        return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}

    def environment(self) -> dict[str, str]:
        """The environment of a process that is to have these settings, and all else as here."""
        ours = set(map(variable_of, type(self).model_fields))
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        given = self.model_fields_set
        return kept | {variable_of(name): _written(getattr(self, name)) for name in given}


def _written(value: object) -> str:
    """A setting as a variable has it."""
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


_environment: Mapping[bytes, bytes] | Mapping[str, str] = getattr(os.environ, "_data", os.environ)
"""The environment as it is, without decoding: comparing it takes a microsecond."""
_last: tuple[Mapping[bytes, bytes] | Mapping[str, str], Settings] | None = None


def current() -> Settings:
    """The settings of this process, as its environment has them.

    They are read once, and again when the program has changed its environment.

    Raises:
        BadInput: a variable can't be right.
    """
    global _last
    if _last is None or _last[0] != _environment:
        _last = dict(_environment), Settings.read()
    return _last[1]


def about(field: FieldInfo) -> About:
    """What people are told of a field of `Settings`."""
    return next(fact for fact in field.metadata if isinstance(fact, About))


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The values that a setting has; empty: others than a few words."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()


def bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """The least and the most that a number may be; None: there is no such bound."""
    inner = [fact for kind in get_args(field.annotation) for fact in get_args(kind)[1:]]
    facts = [*field.metadata, *inner]
    least = next((fact.ge for fact in facts if isinstance(fact, Ge)), None)
    most = next((fact.le for fact in facts if isinstance(fact, Le)), None)
    return cast("tuple[float | None, float | None]", (least, most))


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    if words := about(field).allowed:
        return words
    if values := choices(field):
        return f"{', '.join(values[:-1])} or {values[-1]}"
    least, most = bounds(field)
    if most is not None:
        return f"a whole number from {least} to {most}"
    return "1 or 0" if least is None else f"a number from {least} up"


def _in_words(error: ValidationError, arguments: set[str]) -> str:
    """What is wrong with which settings; arguments are called by their names."""
    parts = []
    by_variable = {variable_of(name): name for name in Settings.model_fields}
    for item in error.errors(include_url=False):
        field = by_variable[str(item["loc"][0])]
        name = field if field in arguments else variable_of(field)
        reason = str(item.get("ctx", {}).get("error", ""))
        if reason:
            parts.append(f"{name}: {reason}")
        else:
            use = allowed(Settings.model_fields[field])
            parts.append(f"{name} is {shown(item['input'])}: use {use}")
    return "; ".join(parts)


def bracketed(host: str) -> str:
    """A host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
