"""What several tests of pocket need: the player of the sound font, or a reason to skip."""

from __future__ import annotations

import pytest

from genmodel.pocket.recipe.render import FontPlayer, RenderError


@pytest.fixture(scope="session")
def player() -> FontPlayer:
    try:
        return FontPlayer()
    except RenderError as error:
        pytest.skip(str(error))
