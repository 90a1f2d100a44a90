"""The published models that Segue reads: their repositories, what they are, and AudioCraft's short names."""

from __future__ import annotations

from dataclasses import dataclass

from genmodel.checkpoints.info import FACEBOOK_LICENCE, ModelEntry


@dataclass(frozen=True)
class Published:
    """One repository on Hugging Face."""

    repo: str
    family: str
    channels: int = 1
    melody: bool = False

    def entry(self) -> ModelEntry:
        return ModelEntry(
            name=self.repo,
            present=False,
            family=self.family,
            rate=16000 if self.family == "audiogen" else 32000,
            channels=self.channels,
            stems=("mix",),
            conditions=("description", "self_wav") if self.melody else ("description",),
            licence=FACEBOOK_LICENCE,
            note=f"run: segue pull {self.repo}",
        )


def _musicgen(name: str, **facts: int | bool) -> Published:
    return Published(f"facebook/musicgen-{name}", "musicgen", **facts)  # type: ignore[arg-type]


PUBLISHED: dict[str, Published] = {
    model.repo: model
    for model in (
        _musicgen("small"),
        _musicgen("medium"),
        _musicgen("large"),
        _musicgen("melody", melody=True),
        _musicgen("melody-large", melody=True),
        _musicgen("stereo-small", channels=2),
        _musicgen("stereo-medium", channels=2),
        _musicgen("stereo-large", channels=2),
        _musicgen("stereo-melody", channels=2, melody=True),
        _musicgen("stereo-melody-large", channels=2, melody=True),
        Published("facebook/audiogen-medium", "audiogen"),
    )
}

SHORT_NAMES: dict[str, dict[str, str]] = {
    "musicgen": {
        repo.removeprefix("facebook/musicgen-"): repo
        for repo, model in PUBLISHED.items()
        if model.family == "musicgen"
    }
    | {"style": "facebook/musicgen-style"},
    "audiogen": {"medium": "facebook/audiogen-medium"},
}

# Published, but of kinds that Segue does not read: refused before gigabytes are fetched.
UNREADABLE: dict[str, str] = {
    "facebook/musicgen-style": "is conditioned on MERT features of a style excerpt",
    "facebook/magnet-": "is not autoregressive (MAGNeT)",
    "facebook/audio-magnet-": "is not autoregressive (MAGNeT)",
    "facebook/jasco-": "is a flow-matching model (JASCO)",
    "facebook/multiband-diffusion": "is a diffusion decoder",
}


def unreadable(repo: str) -> str | None:
    """Why a published model cannot be read, or None."""
    return next((why for start, why in UNREADABLE.items() if repo.startswith(start)), None)
