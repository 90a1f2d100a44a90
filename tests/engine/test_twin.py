"""The engine's tokens equal those of the plain forward, for every way in which a model can be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genmodel.engine.session import Session
from genmodel.engine.stepper import Stepper
from genmodel.engine.windows import make_sessions, run_sessions
from genmodel.lm.lm import LMModel
from genmodel.request import Sampling
from tests.engine.tiny import TEXTS, row, slow_twin, tiny_lm

GREEDY = Sampling(use_sampling=False)
NETWORKS: dict[str, dict[str, Any]] = {
    "cross": {},
    "prepend": {"text": "prepend"},
    "sum": {"text": "sum"},
    "input_interpolate": {"text": "input_interpolate"},
    "prepend-with-cross-layers": {"text": "prepend", "cross_attention": True},
    "biases": {"bias_ff": True, "bias_attn": True, "bias_proj": True},
    "layer-scale": {"layer_scale": True},
    "relu-eps": {"activation": "relu", "norm_eps": 1e-3, "positional_scale": 0.5, "max_period": 500.0},
    "tied": {"tie_embeddings": True},
    "scaled": {"logit_scale": (1.0, 0.7, 1.4, 2.0)},
    "stereo-delays": {"n_q": 8, "pattern_options": {"delays": [0, 0, 1, 1, 2, 2, 3, 3]}},
    "no-delay": {"pattern": "parallel"},
    "flatten": {"pattern_options": {"delays": [0, 1, 2, 3], "flatten_first": 2, "empty_initial": 1}},
    "unroll": {"pattern": "unroll", "pattern_options": {"flattening": [0, 1, 1, 2], "delays": [0, 0, 0, 0]}},
    "coarse-first": {"pattern": "coarse_first", "pattern_options": {"delays": [0, 1, 2]}},
    "musiclm": {"pattern": "musiclm", "pattern_options": {"group_by": 2}},
    "frames": {"frames": ("transport", "harmony", "context")},
    "frames-and-prepend": {"text": "prepend", "frames": ("transport",)},
}


def frame_conditions(lm: LMModel, frames: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    given = {
        "transport": torch.cat([torch.ones(frames, 1), torch.randn(frames, 10)], 1),
        "harmony": torch.rand(frames, 12),
        "context": torch.randint(0, lm.card, (4, frames)),
    }
    return {name: given[name] for name in lm.fuser.frame_conditions}


def both(
    lm: LMModel,
    texts: list[str | None],
    total: int,
    window: int,
    stride: int | None,
    sampling: Sampling,
    prompt: torch.Tensor | None = None,
    negative: str | None = None,
) -> tuple[list[Session], list[torch.Tensor]]:
    """Sessions made by the engine, and the twin's tokens for them."""
    rows = [row(text, **frame_conditions(lm, total)) for text in texts]

    def sessions() -> list[Session]:
        return make_sessions(lm, prompt, rows, total, window, stride, sampling, 11, negative)

    slow = [
        slow_twin(lm, session, attributes, sampling, negative)
        for session, attributes in zip(sessions(), rows, strict=True)
    ]
    fast = sessions()
    run_sessions(Stepper(lm, 4), fast)
    return fast, slow


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_k=10)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("network", NETWORKS)
def test_engine_equals_the_plain_forward(network: str, sampling: Sampling) -> None:
    lm = tiny_lm(**NETWORKS[network])
    prompt = torch.randint(0, lm.card, (2, lm.n_q, 5))
    fast, slow = both(lm, TEXTS[:2], 14, 14, None, sampling, prompt)
    for session, tokens in zip(fast, slow, strict=True):
        assert torch.equal(session.tokens, tokens)
        assert 0 <= int(session.tokens.min()) and int(session.tokens.max()) < lm.card
    assert not torch.equal(fast[0].tokens, fast[1].tokens)


@pytest.mark.parametrize("network", ["cross", "prepend", "frames", "sum"])
def test_windows_begin_with_what_the_last_one_left(network: str) -> None:
    lm = tiny_lm(**NETWORKS[network])
    prompt = torch.randint(0, lm.card, (2, lm.n_q, 3))
    fast, slow = both(lm, TEXTS[1:3], 41, 12, 7, Sampling(top_k=0, temperature=1.3), prompt)
    assert [(w.start, w.frames, w.known) for w in fast[0].windows] == [
        (0, 12, 3),
        (7, 12, 5),
        (14, 12, 5),
        (21, 12, 5),
        (28, 12, 5),
        (35, 6, 5),
    ]
    for session, tokens in zip(fast, slow, strict=True):
        assert torch.equal(session.tokens, tokens)


@pytest.mark.parametrize("coef", [0.0, 1.0, 1.7, -2.0])
@pytest.mark.parametrize("negative", [None, "jazz dark"])
@pytest.mark.parametrize("network", ["cross", "prepend", "biases"])
def test_guidance(network: str, coef: float, negative: str | None) -> None:
    lm = tiny_lm(**NETWORKS[network])
    sampling = Sampling(use_sampling=False, cfg_coef=coef)
    fast, slow = both(lm, TEXTS, 9, 9, None, sampling, negative=negative)
    for session, tokens in zip(fast, slow, strict=True):
        assert torch.equal(session.tokens, tokens)


def test_guidance_and_negative_text_change_what_is_made() -> None:
    lm = tiny_lm()
    made = {
        (coef, negative): both(
            lm, TEXTS[:1], 16, 16, None, Sampling(use_sampling=False, cfg_coef=coef), None, negative
        )[0][0].tokens
        for coef in (1.0, 3.0)
        for negative in (None, "drums house")
    }
    assert not torch.equal(made[1.0, None], made[3.0, None])
    assert not torch.equal(made[3.0, None], made[3.0, "drums house"])
    # without guidance there is nothing to steer away from
    assert torch.equal(made[1.0, None], made[1.0, "drums house"])


def test_a_model_without_conditions_runs_one_row() -> None:
    lm = tiny_lm(text="ignore")
    sampling = Sampling(use_sampling=False)
    sessions = make_sessions(lm, None, [row(None)], 8, 8, None, sampling, 0)
    assert len(sessions[0].streams()) == 1
    slow = slow_twin(lm, sessions[0], row(None), sampling)
    run_sessions(Stepper(lm), sessions)
    assert torch.equal(sessions[0].tokens, slow)
