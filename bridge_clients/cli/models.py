"""``segue models``, ``load``, ``unload`` and ``pull``: what can play, what it costs, and how to get more."""

from __future__ import annotations

from typing import Any

from bridge_clients.cli.connect import connect
from bridge_clients.cli.exits import DONE
from bridge_clients.cli.showing import json_line, say, size, table
from protocol.errors import SegueError

_STATE_WORDS = {"absent": "not here", "ready_to_load": "ready", "quarantined": "broken"}


def run_models(args: Any) -> int:
    """All models that can be named, the default marked with a star."""
    with connect() as client:
        reply = client.models()
    if args.json:
        for model in reply.models:
            json_line({"event": "model", "default": model.name == reply.default, **model.to_map()})
        return DONE
    rows = [
        [
            ("* " if model.name == reply.default else "  ") + model.name,
            _STATE_WORDS.get(model.state, model.state),
            size(model.memory_bytes or model.size_bytes),
            f"{model.rate / 1000:g} kHz" if model.rate else "-",
            " ".join(model.stems) or "-",
            " ".join(model.conditions) or "-",
            model.licence or "-",
        ]
        for model in reply.models
    ]
    table(["  NAME", "STATE", "SIZE", "RATE", "STEMS", "LISTENS TO", "LICENCE"], rows)
    for model in reply.models:
        if model.reason:
            say(f"{model.name}: {model.reason}")
    return DONE


def run_load(args: Any) -> int:
    """Load a model and wait until it is ready."""
    with connect() as client:
        reply = client.load(args.model or client.models().default)
    if reply.state != "loaded":
        why = f": {reply.waiting_for}" if reply.waiting_for else ""
        raise SegueError("E_MODEL", f"{reply.model} cannot be loaded{why}.", field="model", value=reply.model)
    if args.json:
        json_line({"event": "load", **reply.to_map()})
    else:
        say(f"{reply.model} is loaded ({size(reply.memory_bytes)}).")
    return DONE


def run_unload(args: Any) -> int:
    """End a model's worker and wait until its memory is free."""
    with connect(autostart=False) as client:
        reply = client.unload(args.model or client.models().default)
    if args.json:
        json_line({"event": "unload", **reply.to_map()})
    else:
        freed = f", {size(reply.freed_bytes)} given back" if reply.freed_bytes else ""
        say(f"{reply.model} is not loaded any more{freed}.")
    return DONE


def run_pull(args: Any) -> int:
    """Download a model. Runs in a process of its own, because the checkpoint's formats need torch."""
    from bridge_clients.cli.children import run_python

    return run_python(["-m", "genmodel.checkpoints", "pull", args.name])
