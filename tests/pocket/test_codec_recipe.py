"""The codec as it is trained: its layout is EnCodec's arithmetic, and what it exports loads as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.nn import functional as F

from genmodel.codec import encodec_config_from_audiocraft, load_encodec
from genmodel.pocket.recipe.compose import HELD_OUT_FROM
from genmodel.pocket.recipe.configs import codec_config
from genmodel.pocket.recipe.crops import SOURCES, Crops, DeviceCrops
from genmodel.pocket.recipe.export import half, mean_codec
from genmodel.pocket.recipe.fastcodec import Down, FastCodec, Up
from genmodel.pocket.recipe.journal import Journal, load_state, save_atomically
from genmodel.pocket.recipe.spectral import SpectralLoss, incoherence, mel_distance_db, si_sdr_db
from genmodel.pocket.recipe.train_codec import CodecRun, Plan


def small_codec() -> FastCodec:
    torch.manual_seed(0)
    codec = FastCodec(filters=4, dimension=8, ratios=(4, 4, 5, 8), codebooks=4, codebook_size=32).eval()
    codec.quantizer.initialise(torch.randn(200, 8), per_step=50, rounds=3)
    return codec


@pytest.mark.parametrize("stride", [2, 4, 5, 8])
def test_blocks_are_strided_convolutions(stride: int) -> None:
    down, up = Down(3, 5, stride), Up(5, 3, stride)
    x = torch.randn(2, 3, 6 * stride)
    plain = down.conv.conv
    padded = F.pad(x, (stride - stride // 2, stride // 2))
    expected = F.conv1d(padded, plain.weight, plain.bias, stride=stride)
    torch.testing.assert_close(down(x[:, :, None])[:, :, 0], expected)
    plain = up.convtr.convtr
    left = stride - stride // 2
    whole = F.conv_transpose1d(expected, plain.weight, plain.bias, stride=stride)
    torch.testing.assert_close(up(expected[:, :, None])[:, :, 0], whole[..., left : left + 6 * stride])


def test_the_export_is_the_same_codec() -> None:
    codec = small_codec()
    config = encodec_config_from_audiocraft(OmegaConf.create(codec_config(codec.settings)))
    loaded = load_encodec(config, codec.state_dict())
    audio = torch.randn(2, 640 * 9) * 0.3
    codes = codec.encode(audio)
    assert torch.equal(loaded.encode(audio[:, None])[0], codes)
    torch.testing.assert_close(loaded.decode(codes)[:, 0], codec.decode(codes), atol=1e-5, rtol=1e-4)


def in_transformers(settings: dict[str, Any], state: dict[str, torch.Tensor]):
    """`transformers.EncodecModel` with the weights of a codec of the recipe."""
    transformers = pytest.importorskip("transformers")
    config = transformers.EncodecConfig(
        target_bandwidths=[50 * settings["codebooks"] * math.log2(settings["codebook_size"]) / 1000],
        sampling_rate=32_000, audio_channels=1, normalize=False, hidden_size=settings["dimension"],
        num_filters=settings["filters"], num_residual_layers=1, upsampling_ratios=settings["ratios"],
        norm_type="weight_norm", use_causal_conv=False, pad_mode="constant",
        num_lstm_layers=settings["lstm_layers"], codebook_size=settings["codebook_size"],
        codebook_dim=settings["dimension"], use_conv_shortcut=False,
    )  # fmt: skip
    theirs = transformers.EncodecModel(config).eval()
    for module in theirs.modules():
        if torch.nn.utils.parametrize.is_parametrized(module):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    renamed = {}
    for name, value in state.items():
        name = name.replace(".model.", ".layers.").replace(".conv.conv.", ".conv.")
        name = name.replace("convtr.convtr.", "conv.").replace("quantizer.vq.", "quantizer.")
        renamed[name.replace("._codebook.", ".codebook.")] = value.float()
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.endswith(("inited", "cluster_size", "embed_avg")) for name in missing)
    return theirs


def test_transformers_reads_the_same_codec() -> None:
    codec = small_codec()
    theirs = in_transformers(codec.settings, codec.state_dict())
    audio = torch.randn(1, 640 * 8) * 0.3
    with torch.no_grad():
        codes = theirs.encode(audio[:, None]).audio_codes[0]
    assert torch.equal(codes, codec.encode(audio))


def test_transformers_reads_the_shipped_codec() -> None:
    import genmodel.pocket
    from genmodel.checkpoints import registry

    state = load_file(Path(genmodel.pocket.__file__).parent / "codec.safetensors")
    shipped = registry.load("pocket", "cpu")[0]
    settings = {
        "filters": 24, "dimension": 64, "ratios": [4, 4, 5, 8], "lstm_layers": 1, "codebooks": 4,
        "codebook_size": 1024,
    }  # fmt: skip
    theirs = in_transformers(settings, state)
    time = torch.arange(640 * 40) / 32_000
    audio = 0.2 * torch.sin(2 * torch.pi * 220 * time) * torch.exp(-(time % 0.25) / 0.1)
    with torch.no_grad():
        codes = theirs.encode(audio[None, None]).audio_codes[0]
        made = theirs.decode(codes[None], [None]).audio_values
        ours = shipped.encode(audio[None, None])[0]
    assert (codes == ours).float().mean() > 0.99  # rounding may decide a tie
    torch.testing.assert_close(made[0, 0], shipped.decode(codes)[0, 0], atol=1e-4, rtol=1e-3)


def test_half_precision_leaves_out_what_only_training_needs() -> None:
    kept = half(small_codec().state_dict())
    assert {value.dtype for value in kept.values()} == {torch.float16}
    assert not any(name.endswith(("embed_avg", "cluster_size", "inited")) for name in kept)
    assert "quantizer.vq.layers.3._codebook.embed" in kept


def test_decoders_are_averaged_and_nothing_else_is(tmp_path: Path) -> None:
    def checkpoint(name: str, encoder: float, decoder: float) -> Path:
        codec = {"encoder.0.weight": torch.full((2,), encoder), "decoder.0.weight": torch.full((2,), decoder)}
        save_atomically({"codec": codec, "settings": {}}, tmp_path / name)
        return tmp_path / name

    one, other = checkpoint("a.pt", 1.0, 2.0), checkpoint("b.pt", 1.0, 4.0)
    assert mean_codec([one])["codec"]["decoder.0.weight"].tolist() == [2.0, 2.0]
    made = mean_codec([one, other])["codec"]
    assert made["decoder.0.weight"].tolist() == [3.0, 3.0] and made["encoder.0.weight"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"encoder\.0\.weight"):
        mean_codec([one, checkpoint("c.pt", 1.5, 4.0)])


def test_quantiser_learns_and_stays_when_frozen() -> None:
    codec = small_codec().train()
    before = codec.quantizer.books[0].embed.clone()
    codec.quantizer.frozen = True
    codec(torch.randn(2, 6400) * 0.1)
    assert torch.equal(before, codec.quantizer.books[0].embed)
    codec.quantizer.frozen = False
    audio, commitment, _ = codec(torch.randn(2, 6400) * 0.1)
    assert not torch.equal(before, codec.quantizer.books[0].embed)
    (audio.square().mean() + commitment).backward()
    assert codec.encoder.model[0].conv.conv.weight.grad.abs().sum() > 0


def test_distances_are_zero_for_equals_and_grow() -> None:
    loss = SpectralLoss()
    audio = torch.randn(2, 32_000) * 0.1
    noisy = audio + torch.randn(2, 32_000) * 0.05
    assert float(loss(audio, audio, (0, 1, 2, 3), long=True)) < 1e-6
    assert float(loss(noisy, audio, (0, 1, 2, 3), long=True)) > 0.05
    assert (mel_distance_db(loss, noisy, audio) > mel_distance_db(loss, audio, audio)).all()
    assert (si_sdr_db(noisy, audio) - 6.0).abs().max() < 1.0


def test_incoherence_is_minus_a_tenth_of_si_sdr_at_any_level() -> None:
    audio = torch.randn(3, 32_000) * 0.1
    noisy = audio + torch.randn(3, 32_000) * torch.tensor([[0.03], [0.1], [0.2]])
    torch.testing.assert_close(incoherence(noisy, audio), -si_sdr_db(noisy, audio) / 10, atol=0.05, rtol=0)
    torch.testing.assert_close(incoherence(0.1 * noisy, audio), incoherence(noisy, audio))
    assert float(incoherence(-audio, audio).max()) < -3.9  # the sign of a whole signal is not heard
    # what has nothing in common, and silence, are bounded and give finite gradients
    made = torch.randn(2, 32_000, requires_grad=True)
    aim = torch.stack([torch.randn(32_000), torch.zeros(32_000)])
    apart = incoherence(made, aim)
    apart.sum().backward()
    assert made.grad is not None and torch.isfinite(made.grad).all()
    assert 1.9 < float(apart.detach().min()) <= float(apart.detach().max()) <= 2.1


def fake_songs(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for seed in (0, 1, HELD_OUT_FROM):
        np.save(folder / f"{seed:08d}.npy", draw.integers(-9000, 9000, (3, 40_000)).astype(np.int16))
    return folder


def test_a_run_begins_with_anothers_weights_and_resumes_its_own(tmp_path: Path) -> None:
    songs = fake_songs(tmp_path)
    cpu = torch.device("cpu")
    first = CodecRun(songs, tmp_path / "a", Plan(steps=3, free_steps=2, rows=2, filters=4), cpu)
    first.advance()
    plan = Plan(
        steps=2, rows=2, filters=4, start=str(first.checkpoint), coherence_weight=0.4, shares=(0, 0, 1, 1)
    )
    second = CodecRun(songs, tmp_path / "b", plan, cpu)
    assert second.step == 0 and second.codec.quantizer.ready and not second.optimiser.state
    for name, value in first.codec.state_dict().items():
        assert torch.equal(second.codec.state_dict()[name], value), name
    assert second.advance()
    assert CodecRun(songs, tmp_path / "b", plan, cpu).step == 2


def test_shares_decide_what_is_heard() -> None:
    assert Plan(shares=(1, 0, 3, 0)).source_shares() == (0.25, 0.0, 0.75, 0.0)
    assert Plan(decoder_only=True).source_shares()[3] == 0.0
    assert sum(Plan().source_shares()) == pytest.approx(1.0)


def test_a_short_run_warms_up_in_a_tenth_of_its_steps() -> None:
    assert [Plan(steps=steps).warm_steps() for steps in (0, 4, 400, 9000)] == [250, 10, 40, 250]


def test_the_mel_distances_weight_is_a_line() -> None:
    plan = Plan(spectral_weights=(0.4, 1.0))
    assert [plan.spectral_weight(at) for at in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.7, 1.0])
    assert Plan().spectral_weight(0.3) == 1.0


def test_crops_follow_the_shares(tmp_path: Path) -> None:
    loud = np.zeros((3, 40_000), dtype=np.int16)
    loud[1] = 8000
    np.save(tmp_path / "00000000.npy", loud)
    crops = Crops([tmp_path / "00000000.npy"], 0, (0.0, 1.0, 0.0, 0.0))
    assert all(np.abs(crops.one(3200)).max() > 0.2 for _ in range(10))


def test_pieces_from_memory_are_pieces_of_the_songs(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    songs = [draw.integers(4000, 9000, (3, length)).astype(np.int16) for length in (9000, 12_000, 900)]
    files = []
    for seed, song in enumerate(songs):
        files.append(tmp_path / f"{seed:08d}.npy")
        np.save(files[-1], song)
    for source, name in enumerate(SOURCES):
        shares = tuple(float(index == source) for index in range(4))
        crops = DeviceCrops(files, 5, shares)
        truth = [song.sum(0) if name == "mix" else song[source] for song in songs]
        for row in crops.batch(6, 1600).double().numpy():
            end = 1600 if row[-1] else 900  # a song shorter than the piece ends in zeros
            found = []
            for wav in truth:
                places = range(len(wav) - end + 1) if end == 1600 else range(max(0, len(wav) - end) + 1)
                ratio = row[0] / (wav[: len(places)] / 32767)
                for place in np.nonzero((ratio > 0.45) & (ratio < 1.7))[0]:
                    piece = wav[place : place + end] / 32767 * ratio[place]
                    if np.abs(np.clip(piece, -1, 1) - row[:end]).max() < 1e-4:
                        found.append(int(place))
                        break
            assert found, name
    first, again = (DeviceCrops(files, 5).batch(4, 800) for _ in range(2))
    assert torch.equal(first, again)


def test_journal_and_checkpoints(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "run")
    journal.write("train", step=1, loss=2.0)
    journal.write("train", step=2, loss=1.0)
    assert [row["loss"] for row in journal.read("train")] == [2.0, 1.0]
    journal.draw("train", ("loss",))
    save_atomically({"step": 3, "weights": torch.ones(2)}, tmp_path / "a.pt")
    assert load_state(tmp_path / "a.pt")["step"] == 3
    assert not (tmp_path / "a.part").exists()
