"""Fixtures: one shared daemon for what does not disturb it, fresh ones for what does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.daemon.house import House, Wire


@pytest.fixture(scope="package")
def shared_house() -> Iterator[House]:
    house = House().start()
    yield house
    house.close()


@pytest.fixture
def wire(shared_house: House) -> Iterator[Wire]:
    with shared_house.client() as client:
        yield client


@pytest.fixture
def new_house() -> Iterator[Callable[..., House]]:
    """Make daemons with their own settings; all are ended with the test."""
    made: list[House] = []

    def make(*settings: str, model: str = "coded") -> House:
        made.append(House(*settings, model=model))
        return made[-1].start()

    yield make
    for house in made:
        house.close()
