"""Which Segue this is."""

from __future__ import annotations


def version() -> str:
    """The installed distribution's version; "source" when the packages are used from a checkout."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return of("segue-daw")
    except PackageNotFoundError:
        return "source"
