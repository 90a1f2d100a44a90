"""What a client on another machine is not told: paths mean nothing there, and are nobody's business."""

from __future__ import annotations

import dataclasses

from protocol import replies, requests
from protocol.errors import SegueError
from protocol.replies import Reply
from protocol.requests import Request


def check(request: Request) -> None:
    """Raises E_ARGUMENT for what works on this machine only."""
    if isinstance(request, requests.Fetch) and request.as_ == "path":
        raise SegueError(
            "E_ARGUMENT", "A path is of no use on another machine; fetch the bytes.", field="as",
            value="path", allowed="bytes",
        )  # fmt: skip


def without_paths(reply: Reply) -> Reply:
    """The same answer without this machine's paths."""
    if isinstance(reply, replies.HelloReply):
        return dataclasses.replace(reply, executable="")
    if isinstance(reply, replies.ModelsReply):
        return dataclasses.replace(
            reply, models=tuple(dataclasses.replace(model, path=None) for model in reply.models)
        )
    if isinstance(reply, replies.StatusReply):
        return dataclasses.replace(reply, info=dataclasses.replace(reply.info, folder=None))
    if isinstance(reply, replies.ListReply):
        return dataclasses.replace(
            reply, jobs=tuple(dataclasses.replace(info, folder=None) for info in reply.jobs)
        )
    return reply
