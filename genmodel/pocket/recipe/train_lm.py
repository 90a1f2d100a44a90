"""Train the language model on tokenised songs; resumable at any moment from its last checkpoint.

python -m genmodel.pocket.recipe.train_lm --tokens DIR --out DIR --minutes 45

--start begins a run of its own (step 0, fresh optimiser) with another one's weights. After a new codec
--fresh-codes leaves out what belongs to codes (embeddings, heads, the context's embeddings); body, words and
the other conditions are taken over.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genmodel.lm.lm import LMModel
from genmodel.pocket.recipe.compose import SONG_SECONDS
from genmodel.pocket.recipe.configs import DELAYS, build_lm, lm_config, mean_frames
from genmodel.pocket.recipe.journal import Journal, load_state, save_atomically, stop_on_terminate
from genmodel.pocket.recipe.lmdata import (
    CODEBOOKS,
    FRAME_RATE,
    TASKS,
    Batch,
    Drawn,
    TaskMaker,
    TokenSong,
    batches,
    collate,
    load_songs,
)
from genmodel.pocket.recipe.song import STEMS

CODEBOOK_WEIGHTS = (1.5, 1.0, 0.8, 0.7)
"""Share of each codebook in the loss: the first decides what is played, the last ones polish it."""


@dataclass
class Plan:
    """Everything that decides a run, kept in its checkpoint."""

    minutes: float = 45.0
    steps: int = 0
    rows: int = 4
    seconds: float = 15.0
    dim: int = 256
    layers: int = 6
    heads: int = 4
    peak_rate: float = 1.2e-3
    warm_steps: int = 150
    seed: int = 0
    start: str = ""
    fresh_codes: bool = False


OF_CODES = ("emb.", "linears.", "condition_provider.conditioners.context.emb.")
"""Parameters, by the beginning of their name, that mean nothing under another codec."""


def begin_with(model: LMModel, state: dict[str, Tensor], fresh_codes: bool) -> list[str]:
    """Take over weights; with `fresh_codes` all but those of codes. Returns the names that were left as they
    are.

    Raises RuntimeError where names or shapes of the rest differ.
    """
    kept = {name: value for name, value in state.items() if not (fresh_codes and name.startswith(OF_CODES))}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    odd = [name for name in missing if not (fresh_codes and name.startswith(OF_CODES))] + list(unexpected)
    if odd:
        raise RuntimeError(f"the checkpoint is of another model: {odd[0]} and {len(odd) - 1} more differ")
    return list(missing)


def delayed(values: Tensor, delays: list[int], fill: int | bool) -> Tensor:
    """[B, K, F] -> [B, K, 1 + F + max delay]: row k moved right by 1 + its delay, `fill` elsewhere."""
    rows, books, frames = values.shape
    out = values.new_full((rows, books, 1 + frames + max(delays)), fill)
    for book, delay in enumerate(delays):
        out[:, book, 1 + delay : 1 + delay + frames] = values[:, book]
    return out


def condition_tensors(model: LMModel, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """The batch's conditions through the model's own conditioners."""
    return model.condition_provider(
        {
            "description": batch.words,
            "transport": batch.transport,
            "harmony": batch.harmony,
            "context": list(batch.context),
        }
    )


def hidden_states(model: LMModel, sequence: Tensor, conditions: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """What the heads see, [B, S, D]; `LMModel.forward` without the heads."""
    x = torch.stack([table(sequence[:, k]) for k, table in enumerate(model.emb)]).sum(0)
    bias = model.fuser.bias(conditions, sequence.shape[2])
    if bias is not None:
        x = x + bias.to(x.dtype)
    source = model.fuser.cross(conditions)
    values, mask = source if source is not None else (None, None)
    return model.out_norm(model.transformer(x, values, mask))


def codebook_losses(model: LMModel, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats of each of the 12 codebooks, [12] float32; NaN where a batch counts none."""
    special = model.special_token_id
    read = torch.where(batch.given, batch.codes, special)
    truth = delayed(batch.codes, DELAYS, special)[:, :, 1:]
    counted = delayed(batch.counted, DELAYS, False)[:, :, 1:]
    sequence = delayed(read, DELAYS, special)[:, :, :-1]
    with torch.autocast(sequence.device.type, torch.bfloat16):
        hidden = hidden_states(model, sequence, condition_tensors(model, batch))
        losses = []
        for book in range(model.num_codebooks):
            where = counted[:, book]
            logits = F.linear(hidden[where], *model.head(book))
            losses.append(F.cross_entropy(logits.float(), truth[:, book][where]))
    return torch.stack(losses)


def weighted(losses: Tensor) -> Tensor:
    """One number to descend: weighted mean over the codebooks that counted."""
    weights = losses.new_tensor(CODEBOOK_WEIGHTS).repeat_interleave(len(STEMS))
    there = ~losses.isnan()
    return (losses[there] * weights[there]).sum() / weights[there].sum()


class LMRun:
    """One training run; `advance` does steps until the plan, or the given number of seconds, is over."""

    def __init__(
        self,
        tokens: Path,
        out: Path,
        plan: Plan,
        device: torch.device,
        song_seconds: float = SONG_SECONDS,
        loaders: int = 0,
    ) -> None:
        """`song_seconds`: what the songs were composed with, so that their words and bars are found again.
        `loaders`: processes that make batches ahead of need."""
        self.plan, self.device = plan, device
        self.journal = Journal(out, "lm")
        self.checkpoint = out / "lm.pt"
        self.config = lm_config(plan.dim, plan.layers, plan.heads, seconds=plan.seconds)
        self.model = build_lm(self.config, plan.seed).to(device).train()
        words = self.model.condition_provider.conditioners["description"]
        self.index: dict[str, int] = dict(words.index)  # type: ignore[arg-type]
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        rest = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, plan.peak_rate, betas=(0.9, 0.95), fused=True)
        self.step, self.spent_s = 0, 0.0
        if self.checkpoint.exists():
            state = load_state(self.checkpoint)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.spent_s = state["step"], state["spent_s"]
        elif plan.start:
            begin_with(self.model, load_state(Path(plan.start))["model"], plan.fresh_codes)
        songs = load_songs(tokens, False, song_seconds)
        if not songs:
            raise FileNotFoundError(f"no tokens in {tokens}; run genmodel.pocket.recipe.tokenise first")
        frames = mean_frames(plan.seconds)
        drawn = Drawn(songs, frames, self.model.card, plan.seed + 1000 + self.step, plan.rows, self.index)
        self.batches = batches(drawn, loaders)
        self.exam = self._exam(load_songs(tokens, True, song_seconds) or songs, frames)

    def _exam(self, songs: list[TokenSong], frames: int) -> dict[str, list[Batch]]:
        """A few batches per task of held-out songs, all conditions present; the same on every call."""
        exam = {}
        for task in TASKS:
            maker = TaskMaker(songs, frames, self.model.card, seed=5)
            examples = [maker.example(task, drop=False) for _ in range(min(8, 2 * len(songs)))]
            pairs = [examples[i : i + 4] for i in range(0, len(examples), 4)]
            exam[task] = [collate(pair, self.index, self.model.card) for pair in pairs]
        return exam

    def save(self) -> None:
        save_atomically(
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "spent_s": self.spent_s,
                "plan": asdict(self.plan),
            },
            self.checkpoint,
        )

    def progress(self) -> float:
        if self.plan.steps:
            return min(1.0, self.step / self.plan.steps)
        return min(1.0, self.spent_s / (60 * self.plan.minutes))

    def _train_step(self) -> np.ndarray:
        plan = self.plan
        warm = min(1.0, (self.step + 1) / plan.warm_steps)
        rate = plan.peak_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * self.progress())))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = codebook_losses(self.model, next(self.batches).to(self.device))
        self.optimiser.zero_grad()
        weighted(losses).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return losses.detach().cpu().numpy()

    def advance(self, seconds: float = math.inf, judge_every_s: float = 300.0) -> bool:
        """Train; True when the plan is done. Saves every two minutes and on every way out."""
        begun, base_s = time.monotonic(), self.spent_s
        saved = judged = begun
        seen: list[np.ndarray] = []
        try:
            while self.progress() < 1.0 and time.monotonic() - begun < seconds:
                seen.append(self._train_step())
                self.step += 1
                now = time.monotonic()
                self.spent_s = base_s + now - begun
                if self.step % 50 == 0:
                    table = np.nanmean(np.stack(seen), 0).reshape(CODEBOOKS, len(STEMS))
                    facts = {name: table[:, i].round(3).tolist() for i, name in enumerate(STEMS)}
                    total = round(float(table.mean()), 4)
                    self.journal.write(
                        "train", step=self.step, spent_s=round(self.spent_s), loss=total, stems=facts
                    )
                    seen.clear()
                if now - saved > 120:
                    self.save()
                    saved = now
                if now - judged > judge_every_s:
                    self.judge()
                    judged = time.monotonic()
        finally:
            self.save()
        return self.progress() >= 1.0

    @torch.no_grad()
    def judge(self) -> dict[str, object]:
        """Cross-entropy on held-out songs per task, and what each condition is worth on "continue a mix"."""
        self.model.eval()
        facts: dict[str, object] = {}
        for task, exam in self.exam.items():
            table = torch.stack([codebook_losses(self.model, batch.to(self.device)) for batch in exam])
            mean = table.nanmean(0).view(CODEBOOKS, len(STEMS))
            facts[task] = {name: [round(v, 3) for v in mean[:, i].tolist()] for i, name in enumerate(STEMS)}
            facts[f"{task}_loss"] = round(float(mean.nanmean()), 4)
        self.model.train()
        self.journal.write("judged", step=self.step, spent_s=round(self.spent_s), **facts)
        self.journal.draw("judged", tuple(f"{task}_loss" for task in TASKS))
        return facts


def frames_seen(run: LMRun) -> float:
    """Millions of frames that training has used."""
    return run.step * run.plan.rows * run.plan.seconds * FRAME_RATE / 1e6


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--tokens", type=Path, required=True, help="folder written by tokenise")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and curves")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--steps", type=int, default=0, help="length in steps instead of minutes")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--start", default="", help="checkpoint whose weights a new run begins with")
    parser.add_argument("--fresh-codes", action="store_true", help="after a new codec; see above")
    parser.add_argument("--peak-rate", type=float, default=1.2e-3)
    parser.add_argument("--loaders", type=int, default=0, help="processes that make batches ahead")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    stop_on_terminate()
    if options.threads:
        torch.set_num_threads(options.threads)
    plan = Plan(
        minutes=options.minutes,
        steps=options.steps,
        rows=options.rows,
        layers=options.layers,
        dim=options.dim,
        seed=options.seed,
        peak_rate=options.peak_rate,
        start=options.start,
        fresh_codes=options.fresh_codes,
    )
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = LMRun(options.tokens, options.out, plan, device, loaders=options.loaders)
    run.advance()
    facts = run.judge()
    sys.stdout.write(f"{run.step} steps, {frames_seen(run):.2f} M frames, {run.spent_s:.0f} s: {facts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
