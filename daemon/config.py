"""Configuration: one structured schema, four layers, and for every value where it came from.

Layers, later wins: the defaults below, a YAML file, the environment (``SEGUE_WORKER_SLOTS=4`` sets
``worker.slots``; the folders are ``SEGUE_RUNTIME``, ``SEGUE_STATE``, ``SEGUE_MODELS``), and ``key=value``
words of the command line. Nothing that comes over the wire is ever given to OmegaConf.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import platformdirs
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from daemon.tcp import Refused, address


class ConfigError(ValueError):
    """One sentence about one value: which key, what it is, what is allowed, which layer said it."""


@dataclass
class Folders:
    """Empty means the platform's own place."""

    runtime: str = ""
    state: str = ""
    models: str = ""


@dataclass
class Queue:
    max_jobs: int = 64
    max_per_session: int = 16
    running_per_session: int = 2  # while others wait or may come
    ageing_s: float = 60.0  # an interactive job that waited so long competes as live work does
    batch_ageing_s: float = 600.0  # a batch job that waited so long competes as interactive work does


@dataclass
class Worker:
    devices: list[str] = field(default_factory=lambda: ["auto"])
    default_model: str = "pocket"
    preload: bool = False  # load the default model at start instead of at the first job
    slots: int = 8  # variations that share one step
    threads: int = 0  # CPU threads of a worker; 0 leaves the choice to torch
    precision: str = "auto"
    capture: str = "auto"  # steps as CUDA graphs: on CUDA; "on" runs the same code uncaptured elsewhere
    nice: int = 5  # how far a worker stands back behind the programs that play audio
    keep_alive_s: float = 300.0  # how long an idle model stays; 0 goes at once, -1 stays for ever
    memory_gib: float = 0.0  # what all models on a device may take together; 0: what is measured free
    stay_s: float = 30.0  # so long a model stays that was just loaded, unless a live job needs its room
    load_timeout_s: float = 600.0
    stall_s: float = 10.0  # no step for so long (or 20 usual steps, if that is longer) ends the worker
    first_step_s: float = 300.0  # reading a prompt may take so long, while the process computes
    cancel_grace_s: float = 2.0  # a cancel that the worker has not heard by then ends it
    attempts: int = 3
    deaths: int = 5  # a model whose workers died so often within a minute rests for a while
    backoff_s: float = 1.0  # wait after a worker's death; doubles with each until a job is done
    backoff_most_s: float = 32.0


@dataclass
class Takes:
    quota_gib: float = 20.0
    keep_free_mib: float = 256.0  # disk space that is never planned away
    chunk_s: float = 0.5  # audio per audio event


@dataclass
class Limits:
    prompt_s: float = 40.0  # more prompt than any model can hear is not stored
    length_s: float = 600.0
    job_samples: int = 2_000_000_000  # length x variations x stems x channels
    credit_bytes: int = 8 * 1024 * 1024


@dataclass
class Log:
    level: str = "info"
    max_mib: float = 8.0
    keep: int = 3
    texts: bool = False  # prompt texts are private unless a user says otherwise


@dataclass
class Life:
    idle_exit_s: float = 0.0  # 0: never
    drain_s: float = 10.0  # how long a polite stop waits for running jobs
    front_max_mib: float = 1024.0  # memory of the front-end (some 60 MiB) above which it starts over; 0: any
    crash_pause_s: float = 60.0  # two crashes over the same job within this time: start paused; 0: never


@dataclass
class Tcp:
    bind: str = ""  # e.g. tcp://127.0.0.1:5775; empty: no door to the network


@dataclass
class Settings:
    """Everything a user may set."""

    folders: Folders = field(default_factory=Folders)
    queue: Queue = field(default_factory=Queue)
    worker: Worker = field(default_factory=Worker)
    takes: Takes = field(default_factory=Takes)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    life: Life = field(default_factory=Life)
    tcp: Tcp = field(default_factory=Tcp)


RANGES: dict[str, tuple[float, float]] = {
    "queue.max_jobs": (1, 10_000),
    "queue.max_per_session": (1, 10_000),
    "queue.running_per_session": (1, 256),
    "queue.ageing_s": (1, 86_400),
    "queue.batch_ageing_s": (1, 86_400),
    "worker.memory_gib": (0, 100_000),
    "worker.stay_s": (0, 86_400),
    "worker.slots": (1, 256),
    "worker.threads": (0, 1024),
    "worker.nice": (0, 19),
    "worker.keep_alive_s": (-1, 31_536_000),
    "worker.load_timeout_s": (1, 86_400),
    "worker.stall_s": (0.5, 86_400),
    "worker.first_step_s": (0.5, 86_400),
    "worker.cancel_grace_s": (0.05, 3600),
    "worker.backoff_s": (0, 3600),
    "worker.backoff_most_s": (0, 3600),
    "worker.attempts": (1, 100),
    "worker.deaths": (1, 100_000),
    "takes.quota_gib": (0, 1_000_000),
    "takes.keep_free_mib": (0, 1_000_000),
    "takes.chunk_s": (0.05, 2),
    "limits.prompt_s": (1, 600),
    "limits.length_s": (1, 86_400),
    "limits.job_samples": (1, 10**12),
    "limits.credit_bytes": (1024, 2**30),
    "log.max_mib": (0.01, 10_000),
    "log.keep": (0, 100),
    "life.idle_exit_s": (0, 31_536_000),
    "life.drain_s": (0, 3600),
    "life.front_max_mib": (0, 1_000_000),
    "life.crash_pause_s": (0, 86_400),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "log.level": ("debug", "info", "warning", "error"),
    "worker.capture": ("auto", "on", "off"),
    "worker.precision": ("auto", "float32", "float16", "bfloat16", "int8"),
}
FOLDER_VARIABLES = {
    "SEGUE_RUNTIME": "folders.runtime",
    "SEGUE_STATE": "folders.state",
    "SEGUE_MODELS": "folders.models",
}


@dataclass(frozen=True)
class Resolved:
    """The settings in force and, per dotted key, the layer that decided it."""

    settings: Settings
    origins: Mapping[str, str]


def default_file() -> Path:
    """Where the user's configuration is looked for when none is named."""
    return Path(platformdirs.user_config_dir("segue")) / "config.yaml"


def resolve(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> Resolved:
    """Merge the layers. ``file=None`` reads the default file if there is one; a named file must exist."""
    environment = os.environ if environment is None else environment
    merged = cast(DictConfig, OmegaConf.structured(Settings))
    origins = dict.fromkeys(_leaves(merged), "default")
    named = file or (Path(environment["SEGUE_CONFIG"]) if environment.get("SEGUE_CONFIG") else None)
    path = named or default_file()
    if named is not None or path.is_file():
        merged = _lay(merged, origins, _read(path), f"file {path}")
    for key, value, variable in _environment(environment):
        merged = _lay(merged, origins, _word(f"{key}={value}", variable), f"environment {variable}")
    for word in words:
        merged = _lay(merged, origins, _word(word, "the command line"), f"command line {word}")
    settings = cast(Settings, OmegaConf.to_object(merged))
    _check_ranges(merged, origins)
    return Resolved(settings, origins)


def check_file(path: Path) -> None:
    """Raise `ConfigError` for the first thing wrong in a configuration file; starts nothing."""
    resolve(path, environment={})


def describe(resolved: Resolved) -> list[tuple[str, Any, str]]:
    """Rows (key, value, origin) in the schema's order, for ``config show``."""
    config = cast(DictConfig, OmegaConf.structured(resolved.settings))
    return [(key, OmegaConf.select(config, key), resolved.origins[key]) for key in _leaves(config)]


def _leaves(config: DictConfig) -> list[str]:
    return [f"{section!s}.{key!s}" for section in config for key in config[section]]


def _environment(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Variables that name a key of the schema. Others that start with SEGUE_ belong to someone else."""
    known = {f"SEGUE_{key.replace('.', '_').upper()}": key for key in _leaves(OmegaConf.structured(Settings))}
    known |= FOLDER_VARIABLES
    return [(key, environment[name], name) for name, key in known.items() if environment.get(name)]


def _read(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"The configuration file {path} does not exist.") from None
    except Exception as error:  # yaml raises its own family, OmegaConf another, the file system a third
        raise ConfigError(f"The configuration file {path} cannot be read: {_one_line(error)}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"The configuration file {path} must hold sections such as 'worker:', not a list.")
    return config


def _word(word: str, source: str) -> DictConfig:
    if "=" not in word:
        raise ConfigError(
            f"{source} says {word!r}; settings are written key=value, for example worker.slots=4."
        )
    key, value = word.split("=", 1)
    if key.split(".")[0] == "folders":  # a path is never parsed as YAML
        config = OmegaConf.create()
        OmegaConf.update(config, key, value, force_add=True)
        return config
    try:
        return OmegaConf.from_dotlist([word])
    except Exception as error:
        raise ConfigError(f"{source} says {word!r}, which cannot be read: {_one_line(error)}") from None


def _lay(merged: DictConfig, origins: dict[str, str], layer: DictConfig, source: str) -> DictConfig:
    for section in layer:
        if section not in merged:
            raise ConfigError(
                f"{source} names the unknown section {section!r}; known are {', '.join(merged)}."
            )
        if not isinstance(layer[section], DictConfig):
            raise ConfigError(f"{source}: {section!r} is a section of keys, not a single value.")
        for key in layer[section]:
            if key not in merged[section]:
                known = ", ".join(merged[section])
                raise ConfigError(
                    f"{source} names the unknown key {section!s}.{key!s}; {section!s} has {known}."
                )
            try:
                merged = cast(DictConfig, OmegaConf.merge(merged, {section: {key: layer[section][key]}}))
            except OmegaConfBaseException as error:
                said = f"the value {layer[section][key]!r}: {_one_line(error)}"
                raise ConfigError(f"{source} gives {section!s}.{key!s} {said}") from None
            origins[f"{section!s}.{key!s}"] = source
    return merged


def _check_ranges(config: DictConfig, origins: Mapping[str, str]) -> None:
    for key, (low, high) in RANGES.items():
        value = OmegaConf.select(config, key)
        if not low <= value <= high:  # also false for nan
            raise ConfigError(f"{key} is {value} ({origins[key]}); allowed is {low:g} to {high:g}.")
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in allowed:
            raise ConfigError(f"{key} is {value!r} ({origins[key]}); allowed is one of {', '.join(allowed)}.")
    if config.tcp.bind:
        try:
            address(config.tcp.bind)
        except Refused as error:
            raise ConfigError(f"{str(error)[:-1]} ({origins['tcp.bind']}).") from None
    if not config.worker.devices:
        raise ConfigError(
            f"worker.devices is empty ({origins['worker.devices']}); name at least one, e.g. [auto]."
        )


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
