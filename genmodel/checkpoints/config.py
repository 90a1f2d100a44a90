"""A checkpoint's own configuration (``xp.cfg``) as OmegaConf, with nothing in it that can act.

The text comes from strangers. Interpolations of other keys (``${sample_rate}``) keep working; resolvers,
OmegaConf's built-in ones included (``${oc.env:USER}`` reads the environment), are escaped and stay the
literal text that they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genmodel.errors import CheckpointError

MAX_CHARACTERS = 2**20
MAX_ALIASES = 10
MAX_NODES = 100_000
# "${name:" with anything that may stand for a resolver's name
_RESOLVER = re.compile(r"\$\{[^{}]*?:")
_REFERENCE = re.compile(r"(?<!\\)\$\{")


def neutralise(value: Any) -> Any:
    """The same tree with every string that calls a resolver escaped into plain text."""
    count = 0

    def walk(node: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_NODES:
            raise CheckpointError("the configuration is unreasonably large", field="xp.cfg")
        if isinstance(node, dict):
            return {key: walk(item) for key, item in node.items()}
        if isinstance(node, list):
            return [walk(item) for item in node]
        if isinstance(node, str) and _RESOLVER.search(node):
            return _REFERENCE.sub(r"\\${", node)
        return node

    return walk(value)


def parse_config(text: Any, path: Path) -> DictConfig:
    """``xp.cfg`` text of the file ``path`` as a DictConfig; CheckpointError if it is no YAML mapping."""
    if not isinstance(text, str):
        raise CheckpointError(
            f"{path} has no configuration as text under xp.cfg", field="xp.cfg", value=type(text).__name__
        )
    if len(text) > MAX_CHARACTERS:
        raise CheckpointError(
            f"{path}: the configuration is unreasonably large", field="xp.cfg", value=len(text)
        )
    try:
        aliases = sum(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)
        )
        if aliases > MAX_ALIASES:  # nested aliases grow exponentially when they are expanded
            raise CheckpointError(f"{path}: the configuration refers to itself too often", field="xp.cfg")
        raw: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: the configuration is not valid YAML: {str(error).splitlines()[0]}", field="xp.cfg"
        ) from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: the configuration is no mapping", field="xp.cfg")
    return make_config(raw)


def make_config(raw: dict[str, Any]) -> DictConfig:
    """A DictConfig from plain values, resolvers escaped."""
    return OmegaConf.create(neutralise(raw))


def setting(cfg: DictConfig, key: str, path: Path, default: Any = None, *, required: bool = False) -> Any:
    """``cfg.key`` resolved, as plain values. A broken reference or a missing required key is a
    CheckpointError.
    """
    try:
        value = OmegaConf.select(cfg, key, default=None, throw_on_missing=False)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
    except OmegaConfBaseException as error:
        raise CheckpointError(
            f"{path}: {key} of the configuration cannot be read: {str(error).splitlines()[0]}", field=key
        ) from error
    if value is None:
        if required:
            raise CheckpointError(f"{path}: the configuration lacks {key}", field=key)
        return default
    return value
