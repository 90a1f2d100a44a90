"""``python -m genmodel.checkpoints pull NAME``: what ``segue pull`` runs, with a progress bar and the
licence.

Exit status: 0 done, 2 wrong usage, 4 not pulled (one sentence on standard error says why), 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from genmodel.checkpoints import download, registry
from genmodel.errors import GenModelError

_USAGE = "usage: segue pull NAME   (org/name, a short name such as small, or a folder)\n"


def main(words: list[str]) -> int:
    if len(words) != 2 or words[0] != "pull":
        sys.stderr.write(_USAGE)
        return 2
    warnings.simplefilter("ignore")
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, tuple[TaskID, str]] = {}

    def show(state: download.Progress) -> None:
        if state.name not in tasks:
            bar.start()
            tasks[state.name] = (bar.add_task(state.name, total=state.total), state.licence)
        bar.update(tasks[state.name][0], completed=state.done, total=state.total)

    try:
        try:
            folder = registry.pull(words[1], show)
        finally:
            if tasks:
                bar.stop()
    except GenModelError as error:
        sys.stderr.write(f"segue: {error.message.rstrip('.')}.\n")
        return 4
    except KeyboardInterrupt:
        sys.stderr.write("segue: stopped; the same command goes on where it was.\n")
        return 130
    for name, (_, licence) in tasks.items():
        sys.stdout.write(f"{name} is here. Licence: {licence}.\n")
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
