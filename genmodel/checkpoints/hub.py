"""Hugging Face's hub as a source of models, through its own client (``huggingface_hub``, the extra
``musicgen``).

The address is ``SEGUE_HUB``, else ``HF_ENDPOINT``, else huggingface.co. This is the only file that uses the
network.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genmodel.checkpoints.download import Listing, RemoteFile, choose
from genmodel.checkpoints.encoders import INSTALL
from genmodel.checkpoints.info import FACEBOOK_LICENCE, UNKNOWN_LICENCE
from genmodel.errors import GenModelError, ModelNotFound

_TIMEOUT_S = 15.0
_LOOK_EVERY_S = 0.25


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise GenModelError(
            f"pulling models needs another package: {INSTALL}", code="E_MODEL", field="model"
        ) from error
    return huggingface_hub


def endpoint() -> str:
    """The hub's address."""
    address = os.environ.get("SEGUE_HUB") or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return address.rstrip("/")


class HubSource:
    """One repository of the hub, at the revision that ``main`` has when its listing is read."""

    def __init__(self, repo: str) -> None:
        self.repo = repo
        self._revision = "main"

    def listing(self) -> Listing:
        hub = _hub()
        with self._said_plainly():
            info = hub.HfApi(endpoint=endpoint()).model_info(
                self.repo, files_metadata=True, timeout=_TIMEOUT_S
            )
        self._revision = info.sha or "main"
        files = [
            RemoteFile(sibling.rfilename, int(sibling.size), _digest(sibling))
            for sibling in info.siblings or []
            if sibling.size is not None
        ]
        return Listing(self.repo, self._revision, _licence(self.repo, info), choose(files))

    def fetch(self, file: RemoteFile, folder: Path, report: Callable[[int], None]) -> None:
        hub = _hub()
        with self._said_plainly(), _quiet(hub), _watched(folder, file, report):
            hub.hf_hub_download(
                self.repo,
                file.name,
                revision=self._revision,
                local_dir=str(folder),
                endpoint=endpoint(),
                etag_timeout=_TIMEOUT_S,
            )

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        """The hub client's many errors as one sentence each."""
        _hub()
        from huggingface_hub import errors

        address = endpoint().removeprefix("https://").removeprefix("http://")
        try:
            yield
        except errors.GatedRepoError as error:
            raise GenModelError(
                f"{self.repo} asks for consent first: accept its terms on {address}/{self.repo}, then run: "
                "hf auth login",
                code="E_MODEL",
                field="model",
            ) from error
        except (
            errors.RepositoryNotFoundError,
            errors.RevisionNotFoundError,
            errors.EntryNotFoundError,
        ) as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise self._unreachable(address) from error
            raise self._unknown(address) from error
        except GenModelError:
            raise
        except errors.HfHubHTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 404):  # the hub does not tell the unknown from the private
                raise self._unknown(address) from error
            raise GenModelError(
                f"{self.repo} could not be downloaded: {address} answered {status or 'with an error'}; "
                "try again later",
                code="E_MODEL",
                field="model",
            ) from error
        except Exception as error:
            # requests, httpx and urllib3 each have their own family for "no network"
            if isinstance(error, OSError) and not _is_network(error):
                raise
            if not _is_network(error):
                raise GenModelError(
                    f"{self.repo} could not be downloaded: {type(error).__name__}",
                    code="E_MODEL",
                    field="model",
                ) from error
            raise self._unreachable(address) from error

    def _unknown(self, address: str) -> ModelNotFound:
        return ModelNotFound(f"{address} has no model named {self.repo}", value=self.repo)

    def _unreachable(self, address: str) -> GenModelError:
        return GenModelError(
            f"{self.repo} could not be downloaded because {address} cannot be reached from here; connect to "
            f"the network and run segue pull {self.repo} again, or copy its folder from another machine and "
            "run: segue pull /path/to/the/folder",
            code="E_MODEL",
            field="model",
        )


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"requests", "httpx", "httpcore", "urllib3", "socket", "huggingface_hub"})


def _digest(sibling: Any) -> str | None:
    """Large files state their SHA-256, small ones git's hash of a blob."""
    lfs = getattr(sibling, "lfs", None)
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    if sha256:
        return f"sha256:{sha256}"
    blob = getattr(sibling, "blob_id", None)
    return f"blob:{blob}" if isinstance(blob, str) and len(blob) == 40 else None


def _licence(repo: str, info: Any) -> str:
    if repo.startswith("facebook/"):
        return FACEBOOK_LICENCE
    card = getattr(info, "card_data", None)
    stated = card.get("license") if card is not None else None
    return str(stated) if isinstance(stated, str) else UNKNOWN_LICENCE


@contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """The client's own progress bars off; ours are the caller's business."""
    was_off = hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            hub.utils.enable_progress_bars()


@contextmanager
def _watched(folder: Path, file: RemoteFile, report: Callable[[int], None]) -> Iterator[None]:
    """Report how far one file has come, from its unfinished form on disk, while the client downloads it."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(_LOOK_EVERY_S):
            sizes = []
            for path in (*folder.glob(".cache/huggingface/download/*.incomplete"), folder / file.name):
                try:
                    sizes.append(path.stat().st_size)
                except OSError:
                    continue
            report(min(file.size, max(sizes, default=0)))

    watcher = threading.Thread(target=look, name="pull-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
