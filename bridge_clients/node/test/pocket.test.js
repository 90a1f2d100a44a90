// With the real model: the daemon of the runtime folder that SEGUE_TEST_RUNTIME names.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Segue } from "../index.js";
import { tone } from "./house.js";

const folder = process.env.SEGUE_TEST_RUNTIME;

test("the real model goes on from a prompt, in bars, exactly", { skip: folder ? false : "SEGUE_TEST_RUNTIME is not set" }, async () => {
  const segue = await Segue.connect({ folder, start: false });
  const job = await segue.continue({
    prompt: tone(2, 44_100, 2),
    length: { bars: 2 },
    tempo_map: { changes: [{ at: 0, bpm: "12137/100", beats: 3 }], start: 0 },
    seed: 3,
    variations: 2,
  });
  const { state, manifest, takes } = await job.finished({ push: true });
  assert.equal(state, "done");
  const frames = Math.round((6 * 60 * 44_100 * 100) / 12_137);
  assert.equal(manifest.frames, frames);
  for (const variation of [0, 1]) {
    const take = await job.take({ variation });
    assert.deepEqual([take.rate, take.channels, take.frames], [44_100, 2, frames]);
    const heard = takes.get(variation);
    assert.equal(heard.position + heard.frames, frames);
    assert.deepEqual(heard.samples.slice(-heard.position * 2), take.samples);
    assert.ok(take.samples.every(Number.isFinite));
    assert.ok(take.samples.some((sample) => Math.abs(sample) > 0.01), "it is not silent");
  }
  await job.forget();
  segue.close();
});
