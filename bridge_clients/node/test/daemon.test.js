// Against the real daemon, with a model whose every sample says where it belongs.
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Assembly, Segue, SegueError, newKey, readWav } from "../index.js";
import { House, tone, wrongSamples } from "./house.js";

const RATE = 32_000;
const plain = { level: "off", seed: 7, rate: RATE, channels: 1 };

describe("one daemon for what does not disturb it", () => {
  /** @type {House} */ let house;
  /** @type {Segue} */ let segue;
  before(async () => {
    house = new House();
    await house.start();
    segue = new Segue({ folder: house.runtime, start: false });
  });
  after(async () => {
    segue?.close();
    await house?.close();
  });

  test("hello, ping, models, list, metrics", async () => {
    const seen = [];
    segue.once("hello", (hello) => seen.push(hello));
    assert.equal((await segue.ping()).ready, true);
    assert.equal(segue.hello.pid, house.process.pid);
    assert.equal(seen.length, 1);
    assert.ok(Array.isArray((await segue.models()).models));
    assert.ok(Array.isArray((await segue.list()).jobs));
    assert.match(await segue.metrics(), /^# /m);
  });

  test("a prompt goes on: every sample right, handle included, both ways of listening", async () => {
    for (const push of [false, true]) {
      const job = await segue.continue({ prompt: tone(), length: { seconds: 2 }, variations: 3, ...plain });
      assert.equal(job.seed, 7);
      const kinds = [];
      const { state, manifest, takes } = await job.finished({ push, onEvent: (e) => kinds.push(e.event) });
      assert.equal(state, "done");
      assert.deepEqual(kinds.filter((kind) => kind !== "tick" && kind !== "audio"), ["accepted", "started", "done"]);
      for (const variation of [0, 1, 2]) {
        const track = takes.get(variation);
        assert.ok(track.position < 0, "a handle before the seam");
        assert.equal(track.position + track.frames, 2 * RATE);
        assert.equal(wrongSamples(track, 7, variation), 0);
        const take = await job.take({ variation });
        assert.deepEqual([take.position, take.frames, take.rate, take.channels], [0, 2 * RATE, RATE, 1]);
        assert.deepEqual(take.samples, track.samples.slice(-track.position));
      }
      assert.equal(manifest.seed, 7);
    }
  });

  test("a take's file: path here, bytes anywhere, the same", async () => {
    const job = await segue.generate({ length: { frames: 50_000 }, ...plain });
    await job.finished();
    const { path: file, frames } = await job.fetch();
    assert.equal(frames, 50_000);
    const bytes = (await job.fetchBytes({ max_bytes: 7_777 })).bytes;
    assert.deepEqual(Buffer.from(bytes), fs.readFileSync(file));
    assert.equal(wrongSamples({ ...readWav(bytes), position: 0 }, 7), 0);
    await assert.rejects(job.fetch({ variation: 9 }), { code: "E_TAKE_MISSING" });
    assert.ok((await job.forget()).freed_bytes > 0);
    assert.equal(fs.existsSync(file), false);
    await assert.rejects(job.status(), { code: "E_JOB" });
  });

  test("stereo, given as one array for each channel", async () => {
    const { samples } = tone(0.5);
    const job = await segue.continue({
      prompt: { samples: [samples, samples], rate: RATE }, model: "wide", length: { seconds: 0.5 }, level: "off", seed: 3,
    });
    const { takes } = await job.finished();
    const track = takes.get();
    assert.deepEqual([track.channels, track.rate], [2, RATE]);
    assert.equal(wrongSamples(track, 3), 0);
  });

  test("a prompt longer than a payload may be travels in pieces", async () => {
    const { samples } = tone(40);
    const long = { samples, rate: RATE, channels: 1, position: -samples.length }; // 5 MB
    const job = await segue.continue({ prompt: long, length: { seconds: 0.5 }, ...plain });
    assert.equal(wrongSamples((await job.finished()).takes.get(), 7), 0);
  });

  test("the same key is the same job; another body is refused", async () => {
    const key = newKey();
    const request = { key, length: { seconds: 0.5 }, ...plain };
    const first = await segue.generate(request);
    const again = await segue.generate(request);
    assert.deepEqual([again.id, again.again, first.again], [first.id, true, false]);
    await assert.rejects(segue.generate({ ...request, seed: 8 }), { code: "E_KEY_REUSE", retry: "new_key" });
    await first.finished();
  });

  test("errors are typed: field, value, what is allowed", async () => {
    await assert.rejects(segue.generate({ length: { seconds: -1 } }), (error) => {
      assert.ok(error instanceof SegueError);
      assert.deepEqual([error.code, error.field, error.value], ["E_ARGUMENT", "length.seconds", -1]);
      assert.ok(error.allowed.length > 0 && error.message.length > 10);
      return true;
    });
    await assert.rejects(segue.continue({ prompt: { ...tone(), samples: [1, 2] }, length: { seconds: 1 } }), { code: "E_AUDIO" });
    const broken = tone();
    broken.samples[5] = Number.NaN;
    await assert.rejects(segue.continue({ prompt: broken, length: { seconds: 1 } }), { code: "E_AUDIO" });
    await assert.rejects(segue.ask("sing"), { code: "E_UNKNOWN_OP" });
    const failing = await segue.generate({ text: "impossible", length: { seconds: 1 }, ...plain });
    await assert.rejects(failing.finished(), { code: "E_ARGUMENT", field: "text" });
  });

  test("texts pass unharmed", async () => {
    for (const text of ['"quotes" \'and\' `ticks`', "new\nlines\r\n\t", "$(touch /tmp/never) ; rm -rf x", "🎷 émoji 音楽", "x".repeat(10_240)]) {
      const job = await segue.generate({ text, negative_text: text, length: { seconds: 0.1 }, ...plain });
      await job.finished();
      assert.equal((await job.status()).text, text);
    }
  });

  test("retake: another seed, the same for the rest", async () => {
    const job = await segue.generate({ length: { seconds: 0.5 }, variations: 2, ...plain });
    await job.finished();
    const other = await job.retake({ seed: 99, variations: 1 });
    assert.equal(other.seed, 99);
    const { takes } = await other.finished();
    assert.equal(wrongSamples(takes.get(), 99), 0);
    assert.equal(takes.get(1), undefined);
    const { info } = { info: await other.status() };
    assert.deepEqual([info.state, info.frames, info.variations], ["done", RATE / 2, 1]);
  });

  test("vary, fill, accompany, the bar line: lengths, handles and tails are exact", async () => {
    const half = tone(0.5);
    const varied = await (await segue.vary({ source: half, strength: 0.3, ...plain })).finished();
    assert.equal(varied.manifest.frames, RATE / 2);

    const filling = await segue.fill({ prompt: tone(), following: half, length: { frames: 20_001 }, tail_ms: 100, ...plain });
    const filled = await filling.finished();
    assert.deepEqual([filled.manifest.frames, filled.manifest.tail_frames], [20_001, RATE / 10]);
    assert.equal(filled.takes.get().position + filled.takes.get().frames, 20_001 + RATE / 10);
    assert.equal((await filling.take({ part: "tail" })).frames, RATE / 10);
    assert.equal((await filling.take()).frames, 20_001);

    const tempo_map = { changes: [{ at: 0, bpm: 120 }], start: "7/2" }; // half a beat before bar 2
    const onBar = await segue.continue({ prompt: tone(), length: { bars: 1 }, start: "bar", tempo_map, ...plain });
    assert.deepEqual([onBar.reply.lead_frames, onBar.reply.frames], [RATE / 4, 2 * RATE]);
    const { takes } = await onBar.finished();
    assert.ok(takes.get().position <= -RATE / 4, "what lies before the bar line is in the handle");
    assert.equal(takes.get().position + takes.get().frames, 2 * RATE);
    assert.equal((await onBar.take()).frames, 2 * RATE);

    const context = [{ ...half, stem: "drums" }];
    const deaf = await segue.accompany({ context, length: { seconds: 1 }, ...plain }).then((job) => job.finished(), (error) => error).catch((error) => error);
    assert.equal(deaf.code, "E_MODEL");
    const others = await segue.accompany({ context, model: "stems", length: { seconds: 1 }, ...plain });
    const { manifest } = await others.finished();
    assert.deepEqual([...manifest.stems].sort(), ["bass", "mix", "other"]);
    const changed = await onBar.retake({ seed: 8, change: { length: { seconds: 0.5 }, start: "edge" } });
    assert.deepEqual([changed.seed, changed.reply.frames], [8, RATE / 2]);
    await changed.finished();
  });

  test("cancel stops the work within 200 ms: the step counter stands still", async () => {
    const job = await segue.generate({ text: "slow=20", length: { seconds: 60 }, ...plain });
    const other = new Segue({ folder: house.runtime, start: false });
    let cancelled_ms = 0;
    let stopped_ms = 0;
    let step = 0;
    for await (const event of job.events({ wait_ms: 200 })) {
      if (event.event === "tick" && event.step > 5 && cancelled_ms === 0) {
        cancelled_ms = performance.now();
        await other.job(job.id).cancel();
      }
      if (event.event === "tick") step = event.step;
      if (event.event === "cancelled") stopped_ms = performance.now();
    }
    assert.ok(step > 5 && step < 3000, `${step}`);
    assert.ok(stopped_ms - cancelled_ms < 200, `${stopped_ms - cancelled_ms} ms`);
    assert.equal((await other.job(job.id).status()).state, "cancelled");
    other.close();
  });

  test("an AbortSignal ends waiting at once, and nothing else", async () => {
    const job = await segue.generate({ text: "slow=10", length: { seconds: 4 }, ...plain });
    const stop = new AbortController();
    const begun = performance.now();
    setTimeout(() => stop.abort(new Error("enough")), 150);
    await assert.rejects(async () => {
      for await (const event of job.events({ wait_ms: 5000, ticks: false, signal: stop.signal })) void event;
    }, /enough/);
    assert.ok(performance.now() - begun < 1000);
    await assert.rejects(segue.ping({ signal: AbortSignal.abort(new Error("before")) }), /before/);
    assert.equal((await segue.ping()).ready, true);
    assert.ok(["running", "loading", "queued"].includes((await job.status()).state));
    await job.cancel();
  });

  test("a slow reader of the push holds the daemon back, loses nothing and doubles nothing", async () => {
    const seconds = 70; // 9 MB, more than twice the credit
    const job = await segue.generate({ length: { seconds }, ...plain });
    await job.finished();
    const takes = new Assembly();
    let last = 0;
    for await (const event of job.stream({ ticks: false })) {
      assert.equal(event.seq, last + 1);
      last = event.seq;
      takes.add(event);
      if (event.event === "audio") await sleep(10);
    }
    assert.equal(takes.get().frames, seconds * RATE);
    assert.equal(wrongSamples(takes.get(), 7), 0);
  });

  test("two clients hear the same job, and each other's jobs not at all", async () => {
    const other = new Segue({ folder: house.runtime, start: false, project: "other" });
    const [mine, theirs] = await Promise.all([
      segue.generate({ length: { seconds: 2 }, text: "slow=1", ...plain }),
      other.generate({ length: { seconds: 2 }, text: "slow=1", ...plain, seed: 11 }),
    ]);
    const [a, b, c] = await Promise.all([
      mine.finished(),
      other.job(mine.id).finished({ push: true }),
      theirs.finished({ push: true }),
    ]);
    assert.equal(wrongSamples(a.takes.get(), 7), 0);
    assert.deepEqual(a.takes.get().samples, b.takes.get().samples);
    assert.equal(wrongSamples(c.takes.get(), 11), 0);
    const found = [];
    for await (const info of other.jobs({ project: "other", limit: 1 })) found.push(info.job);
    assert.deepEqual(found, [theirs.id]);
    other.close();
  });

  test("leaving a loop early closes its socket; the job can be taken up where it was left", async () => {
    const job = await segue.generate({ length: { seconds: 4 }, ...plain });
    const takes = new Assembly();
    let last = 0;
    for await (const event of job.events({ ticks: false })) {
      takes.add(event);
      last = event.seq;
      if (event.event === "audio") break;
    }
    for await (const event of job.stream({ after: last, ticks: false })) takes.add(event);
    assert.equal(wrongSamples(takes.get(), 7), 0);
    assert.equal(takes.get().frames, 4 * RATE);
  });
});

for (const push of [false, true]) {
  test(`the daemon is killed in the middle (${push ? "pushed" : "asked"}): nothing lost, nothing doubled`, async (t) => {
    const house = new House();
    t.after(() => house.close());
    await house.start();
    const segue = new Segue({ folder: house.runtime, start: false });
    t.after(() => segue.close());
    const said = [];
    segue.on("waiting", (why) => said.push(why));
    const notices = [];
    segue.on("notice", (notice) => {
      notices.push(notice);
      segue.resume().catch(() => {}); // after two ends over one job the daemon waits for the user's word
    });
    const job = await segue.generate({ text: "slow=15 resumable", length: { seconds: 4 }, variations: 2, ...plain });
    const takes = new Assembly();
    let last = 0;
    let kills = 0;
    const kinds = [];
    for await (const event of push ? job.stream() : job.events()) {
      if (event.event === "tick") continue;
      assert.equal(event.seq, last + 1, "an event lost or doubled");
      last = event.seq;
      kinds.push(event.event);
      takes.add(event);
      if (event.event === "audio" && event.position > (kills + 1) * RATE && kills < 2) {
        kills++;
        await house.kill();
        setTimeout(() => house.start(), 300);
      }
    }
    assert.equal(kills, 2);
    assert.equal(kinds.filter((kind) => kind === "requeued").length, 2);
    assert.equal(notices.length, 1, "the second end within a minute is told");
    assert.equal(kinds.at(-1), "done");
    for (const variation of [0, 1]) {
      assert.equal(takes.get(variation).frames, 4 * RATE);
      assert.equal(wrongSamples(takes.get(variation), 7, variation), 0);
    }
    assert.ok(said.some((why) => /come back|fallen silent|does not answer/.test(why)), said.join(" | "));
  });
}

test("without a daemon one is started, once for several clients, and outlives them", async (t) => {
  const house = new House();
  t.after(() => house.close());
  const old = { ...process.env };
  Object.assign(process.env, house.environment());
  t.after(() => {
    for (const key of Object.keys(process.env)) if (!(key in old)) delete process.env[key];
    Object.assign(process.env, old);
  });
  const said = [];
  const clients = Array.from({ length: 3 }, () => new Segue({ command: house.command() }));
  clients.forEach((one) => one.on("waiting", (why) => said.push(why)));
  const boots = await Promise.all(clients.map(async (one) => (await one.ping()).boot));
  assert.equal(new Set(boots).size, 1);
  assert.ok(said.includes("Starting the daemon."));
  clients.forEach((one) => one.close());
  await sleep(200);
  const late = await Segue.connect({ start: false });
  assert.equal(late.hello.boot, boots[0]);
  late.close();
});

test("a daemon that cannot be started is said plainly", async (t) => {
  const folder = fs.mkdtempSync("/tmp/segue-n-");
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }));
  const runtime = path.join(folder, "run");
  await assert.rejects(Segue.connect({ folder: runtime, start: false }), { code: "E_UNREACHABLE" });
  await assert.rejects(Segue.connect({ folder: runtime, command: ["segue-that-is-not-there"] }), (error) => {
    assert.deepEqual([error.code, error.field], ["E_UNREACHABLE", "command"]);
    return true;
  });
  await assert.rejects(
    Segue.connect({ folder: runtime, command: [process.execPath, "-e", "console.error('no room'); process.exit(1)"] }),
    /status 1\): no room/,
  );
});
