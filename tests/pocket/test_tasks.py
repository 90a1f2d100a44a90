"""What the language model is taught: each task's input and loss, and that training sees the shipped model."""

from __future__ import annotations

import pytest
import torch

from genmodel.lm.conditioning import ConditioningAttributes
from genmodel.pocket.recipe.compose import compose
from genmodel.pocket.recipe.configs import DELAYS, build_lm, lm_config
from genmodel.pocket.recipe.lmdata import (
    TASKS,
    Drawn,
    TaskMaker,
    TokenSong,
    batches,
    collate,
    prompt_period_frames,
    transport,
)
from genmodel.pocket.recipe.train_lm import (
    OF_CODES,
    begin_with,
    codebook_losses,
    condition_tensors,
    delayed,
    hidden_states,
    weighted,
)

CARD = 64
FRAMES = 120


@pytest.fixture(scope="module")
def songs() -> list[TokenSong]:
    torch.manual_seed(1)
    names = ("drums", "bass", "other", "mix", "drums+bass", "drums+other", "bass+other")
    return [
        TokenSong(
            compose(seed),
            {name: torch.randint(0, CARD, (4, 600)).short() for name in names},
            {name: torch.randint(0, 256, (600, 12)).byte() for name in names},
        )
        for seed in (3, 4)
    ]


@pytest.fixture(scope="module")
def model():
    return build_lm(lm_config(dim=32, layers=2, heads=2, card=CARD, seconds=3.0)).eval()


@pytest.fixture
def maker(songs) -> TaskMaker:
    return TaskMaker(songs, FRAMES, CARD, seed=0)


def test_continue_a_mix(maker: TaskMaker) -> None:
    for _ in range(20):
        example = maker.example("mix")
        prompt = int((~example.given[0]).sum())
        assert 0 < prompt < FRAMES
        assert not example.given[:, :prompt].any() and example.given[:, prompt:].all()
        assert torch.equal(example.counted, example.given)
        assert (example.context[:, prompt:] == CARD).all() and (example.context[:, :prompt] < CARD).all()


def test_fill_hears_both_sides_of_the_gap_and_counts_what_is_in_it(maker: TaskMaker) -> None:
    for _ in range(20):
        example = maker.example("fill")
        heard = (example.context < CARD).all(0)
        inside = example.counted.all(0)
        assert torch.equal(heard, ~inside) and torch.equal(example.given, example.counted)
        edges = inside.int().diff().nonzero()[:, 0]
        assert len(edges) == 2 and not inside[0] and not inside[-1]  # one gap, sound before and after it
        assert int(inside.sum()) >= FRAMES // 6


def test_a_new_codec_keeps_the_body(model) -> None:
    config = lm_config(dim=32, layers=2, heads=2, card=CARD, seconds=3.0)
    other = build_lm(config, seed=9)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    left = begin_with(other, model.state_dict(), fresh_codes=True)
    assert left and all(name.startswith(OF_CODES) for name in left)
    assert {name.split(".")[0] for name in left} == {"emb", "linears", "condition_provider"}
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name] if name in left else model.state_dict()[name]), name
    assert begin_with(other, model.state_dict(), fresh_codes=False) == []
    with pytest.raises(RuntimeError, match="another model"):
        begin_with(build_lm(lm_config(dim=32, layers=1, heads=2, card=CARD)), model.state_dict(), True)


def test_batches_made_by_other_processes_differ_and_are_whole(songs, model) -> None:
    index = dict(model.condition_provider.conditioners["description"].index)
    drawn = Drawn(songs, FRAMES, CARD, 3, 2, index)
    here = [next(batches(drawn)) for _ in range(2)]
    assert torch.equal(here[0].codes, here[1].codes)  # the same seed, the same batch
    ahead = batches(drawn, loaders=2)
    made = [next(ahead) for _ in range(4)]
    assert all(batch.codes.shape == (2, 12, FRAMES) for batch in made)
    assert len({batch.codes.sum().item() for batch in made}) == 4


def test_accompany_leaves_the_given_stems_out(maker: TaskMaker) -> None:
    for _ in range(20):
        example = maker.example("accompany")
        rows = example.counted.all(1).view(4, 3)
        assert (example.context < CARD).all()
        assert (rows == rows[:1]).all() and 1 <= int(rows[0].sum()) <= 2
        assert torch.equal(example.given, example.counted)


@pytest.mark.parametrize("task", ["stems", "text"])
def test_the_other_tasks_see_everything_and_no_context(maker: TaskMaker, task: str) -> None:
    example = maker.example(task)
    assert example.given.all() and example.counted.all() and (example.context == CARD).all()


def test_conditions_are_dropped_as_often_as_said(maker: TaskMaker) -> None:
    examples = [maker.example("stems") for _ in range(300)]

    def share(flags) -> float:
        return sum(bool(flag) for flag in flags) / len(examples)

    assert share(e.transport.any() for e in examples) == pytest.approx(0.8, abs=0.08)
    assert share(e.harmony.any() for e in examples) == pytest.approx(0.75, abs=0.08)
    assert share(e.words for e in examples) == pytest.approx(0.85, abs=0.08)
    there = [e for e in examples if e.transport.any()]
    assert sum(bool(e.transport[:, 1:3].any()) for e in there) / len(there) == pytest.approx(0.7, abs=0.1)


def test_transport_repeats_after_a_bar_and_starts_at_the_true_phase(songs) -> None:
    song = next(s.song for s in songs)
    features = transport(song, 0, 400)
    assert features[0].tolist() == pytest.approx([1.0] + [1.0, 0.0] * 5, abs=1e-6)
    later = transport(song, 37, 100)
    assert torch.allclose(features[37:137], later, atol=1e-6)
    assert prompt_period_frames(song, 0, 600) is not None
    assert prompt_period_frames(song, 0, 5) is None


def test_delays_put_each_codebook_where_the_pattern_does(model, maker: TaskMaker) -> None:
    example = maker.example("stems")
    sequence = delayed(example.codes[None], DELAYS, CARD)
    theirs, _, _ = model.pattern(FRAMES).build_pattern_sequence(example.codes[None], CARD)
    assert torch.equal(sequence, theirs)


def test_training_computes_the_shipped_models_logits(model, maker: TaskMaker) -> None:
    words = model.condition_provider.conditioners["description"]
    for task in TASKS:
        example = maker.example(task, drop=False)
        batch = collate([example], words.index, CARD)
        row = ConditioningAttributes(
            text={"description": " ".join(example.words)},
            frames={
                "transport": example.transport,
                "harmony": example.harmony,
                "context": example.context,
            },
        )
        sequence = delayed(batch.codes.where(batch.given, CARD), DELAYS, CARD)[:, :, :-1]
        with torch.no_grad():
            expected = model(sequence, [row])
            hidden = hidden_states(model, sequence, condition_tensors(model, batch))
            made = torch.stack([torch.nn.functional.linear(hidden, *model.head(k)) for k in range(12)], 1)
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_only_what_counts_is_in_the_loss(model, maker: TaskMaker) -> None:
    words = model.condition_provider.conditioners["description"]
    example = maker.example("accompany", drop=False)
    losses = codebook_losses(model, collate([example], words.index, CARD))
    counted = example.counted.all(1)
    assert torch.equal(losses.isnan(), ~counted)
    assert torch.isfinite(weighted(losses))


def test_a_few_steps_teach_something(maker: TaskMaker) -> None:
    model = build_lm(lm_config(dim=32, layers=1, heads=2, card=CARD, seconds=3.0), seed=2)
    words = model.condition_provider.conditioners["description"]
    batch = collate([maker.example("stems", drop=False) for _ in range(2)], words.index, CARD)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    history = []
    for _ in range(12):
        loss = weighted(codebook_losses(model, batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0] - 0.2
