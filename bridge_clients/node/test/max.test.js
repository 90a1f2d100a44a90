// segue.js as Max runs it, but for Max: messages in, outlets out, against the real daemon.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import * as path from "node:path";
import * as readline from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { readWav, writeWav } from "../index.js";
import { House, tone, wrongSamples } from "./house.js";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const SCRIPT = path.join(HERE, "../max/segue.js");
const RATE = 32_000;
const { KEYS, PATHS, parse } = createRequire(import.meta.url)("../max/words.js");

class Patch {
  constructor(environment) {
    this.child = spawn(process.execPath, [SCRIPT], {
      env: { ...environment, NODE_PATH: path.join(HERE, "stand-in") },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.seen = [];
    this.waiting = [];
    readline.createInterface({ input: this.child.stdout }).on("line", (line) => {
      this.seen.push(JSON.parse(line));
      this.waiting.forEach((look) => look());
    });
  }

  send(...words) {
    this.child.stdin.write(`${JSON.stringify(words)}\n`);
  }

  /** The first outlet from `from` on that begins with these words. */
  until(...words) {
    return new Promise((resolve, reject) => {
      this.child.once("exit", (status) => reject(new Error(`segue.js ended with ${status}`)));
      const timer = setTimeout(() => reject(new Error(`no ${words}; ${JSON.stringify(this.seen.slice(-6))}`)), 40_000);
      const look = () => {
        const found = this.seen.find((one) => words.every((word, at) => one[at] === word));
        if (found === undefined) return;
        clearTimeout(timer);
        this.waiting = this.waiting.filter((other) => other !== look);
        resolve(found);
      };
      this.waiting.push(look);
      look();
    });
  }

  all(...words) {
    return this.seen.filter((one) => words.every((word, at) => one[at] === word));
  }
}

describe("in the place of Max", () => {
  let house, patch, prompt, takes;
  before(async () => {
    house = new House();
    await house.start();
    prompt = path.join(house.folder, "in put.wav");
    takes = path.join(house.folder, "takes");
    const { samples, rate } = tone();
    fs.writeFileSync(prompt, writeWav(samples, rate, 1));
    patch = new Patch(house.environment());
    patch.send("takes", takes);
  });
  after(async () => {
    patch?.child.kill();
    await house?.close();
  });

  test("continue: progress, exact takes, done", async () => {
    patch.send("continue", prompt, 2, "seed", 7, "variations", 2, "level", "off", "id", "a");
    assert.deepEqual(await patch.until("done", "a"), ["done", "a", "done", 2, 7]);
    const [[, , job, seed, frames, rate, lead]] = patch.all("accepted", "a");
    assert.ok(job.length > 0);
    assert.deepEqual([seed, frames, rate, lead], [7, 2 * RATE, RATE, 0]);
    assert.ok(patch.all("progress", "a").length > 0);
    for (const [, , variation, stem, file, length] of patch.all("take", "a")) {
      assert.equal(path.dirname(file), takes);
      const take = readWav(fs.readFileSync(file));
      assert.deepEqual([length, take.frames, take.rate], [2 * RATE, 2 * RATE, RATE]);
      assert.equal(wrongSamples({ ...take, position: 0 }, 7, variation - 1, stem), 0);
    }
    assert.equal(patch.all("take", "a").length, 2);
  });

  test("generate, vary, retake: numbered by themselves, nothing replaced", async () => {
    patch.send("generate", "2bars", "bpm", 120, "rate", RATE, "channels", 1);
    const [, , , count, drawn] = await patch.until("done", 1, "done");
    assert.ok(count === 1 && drawn < 2 ** 24);
    patch.send("vary", prompt, "strength", 0.3, "level", "off");
    await patch.until("done", 2, "done");
    assert.equal(patch.all("take", 2)[0][5], RATE);
    patch.send("retake", patch.all("accepted", "a")[0][2], "seed", 9);
    await patch.until("done", 3, "done");
    const files = patch.all("take", 3).map((take) => take[4]);
    assert.equal(files.length, 2);
    assert.equal(wrongSamples({ ...readWav(fs.readFileSync(files[1])), position: 0 }, 9, 1), 0);
    assert.deepEqual(fs.readdirSync(takes).filter((name) => name.startsWith(".")), []);
  });

  test("cancel stops it, status tells, errors are named", async () => {
    patch.send("generate", 60, "text", "slow=20", "id", 50);
    await patch.until("progress", 50, "generating");
    patch.send("status", 50);
    patch.send("cancel", 50);
    assert.equal((await patch.until("done", 50))[2], "cancelled");
    patch.send("cancel", 50);
    assert.equal((await patch.until("error", 50))[2], "E_JOB");
    patch.send("status");
    assert.deepEqual((await patch.until("status", "ready")).slice(2), [0, 0, 0, "coded"]);
    for (const [words, code, field] of [
      [["continue", prompt, 1, "nonsense", 1, "id", "e1"], "E_ARGUMENT", "nonsense"],
      [["continue", "/not/there.wav", 1, "id", "e2"], "E_ARGUMENT", "path"],
      [["continue", prompt, 1, "variations", 99, "id", "e3"], "E_ARGUMENT", "variations"],
      [["continue", prompt, 1, "from", 5, "id", "e4"], "E_ARGUMENT", "from"],
      [["generate", "id", "e6"], "E_ARGUMENT", "length"],
    ]) {
      patch.send(...words);
      const error = await patch.until("error", words.at(-1));
      assert.deepEqual([error[2], error[4]], [code, field], JSON.stringify(error));
      assert.ok(error[3].length > 10);
    }
  });

  test("a folder that cannot be written to is said, and the take is not lost", async () => {
    patch.send("takes", path.join(prompt, "below"));
    patch.send("generate", 0.2, "seed", 3, "id", "full");
    const error = await patch.until("error", "full");
    assert.deepEqual([error[2], error[4]], ["E_DISK", "takes"]);
    patch.send("takes", takes);
    patch.send("retake", patch.all("accepted", "full")[0][2], "seed", 3);
    await patch.until("done", 4, "done");
  });

  test("texts pass unharmed", async () => {
    const text = `"q" 'a' \`t\`\n$(touch ${house.folder}/never); 🎷 ${"x".repeat(10_000)}`;
    patch.send("generate", 0.1, "text", text, "id", "../$(x) 🎷");
    await patch.until("done", "../$(x) 🎷", "done");
    assert.equal(path.dirname(patch.all("take", "../$(x) 🎷")[0][4]), takes);
    assert.equal(fs.existsSync(path.join(house.folder, "never")), false);
  });
});

test("without Max it says so", () => {
  const done = spawnSync(process.execPath, [SCRIPT], { encoding: "utf8", env: { ...process.env, NODE_PATH: "" } });
  assert.equal(done.status, 1);
  assert.match(done.stderr, /inside Max/);
});

test("words: the same grammar as over OSC", () => {
  const lengths = [[["/a", 8], { seconds: 8 }], [["/a", 4, "bars", "bpm", 120], { bars: 4 }], [["/a", "4bars", "bpm", 90], { bars: 4 }],
    [["/a", "7/2 bars", "bpm", 90], { bars: "7/2" }], [["/a", "bars", 2.5, "bpm", 1], { bars: 2.5 }], [["/a", "frames", 10], { frames: 10 }]];
  for (const [words, length] of lengths) assert.deepEqual(parse("continue", words).fields.length, length);
  assert.deepEqual(parse("continue", ["/a", 1, "bpm", 120.5, "meter", "6/8", "at", 3]).fields.tempo_map, {
    changes: [{ at: 0, bpm: 120.5, beats: 6, unit: 8 }], start: 3,
  });
  assert.deepEqual(parse("accompany", ["/d", 1, "stem", "drums", "track", "/b", "stem", "bass"]).sounds, [
    { path: "/d", role: "context", stem: "drums" }, { path: "/b", role: "context", stem: "bass" },
  ]);
  assert.equal(parse("vary", ["/a"]).fields.length, undefined);
  for (const words of [[], ["/a"], ["/a", 1, "seed"], ["/a", 1, "seed", 1.5], ["/a", 1, "at", 2], ["/a", NaN]]) {
    assert.throws(() => parse("continue", words), { code: "E_ARGUMENT" });
  }
});

test("the example patch is whole, and sends what segue.js understands", () => {
  const { patcher } = JSON.parse(fs.readFileSync(new URL("../max/segue.maxpat", import.meta.url), "utf8"));
  const boxes = new Map(patcher.boxes.map(({ box }) => [box.id, box]));
  assert.equal(boxes.size, patcher.boxes.length);
  for (const { patchline } of patcher.lines) {
    const [from, outlet] = patchline.source;
    const [to, inlet] = patchline.destination;
    assert.ok(outlet < boxes.get(from).numoutlets, from);
    assert.ok(inlet < boxes.get(to).numinlets, to);
  }
  const texts = patcher.boxes.map(({ box }) => box.text ?? "");
  assert.ok(texts.some((text) => text.startsWith("node.script segue.js")));
  const known = [...Object.keys(PATHS), "cancel", "status", "takes", "retake", "script"];
  const messages = patcher.boxes.filter(({ box }) => box.maxclass === "message").map(({ box }) => box.text);
  assert.ok(messages.length >= 6);
  for (const message of messages) {
    const [selector, ...words] = message.split(" ");
    assert.ok(known.includes(selector), message);
    if (selector in PATHS) parse(selector, words.map((word) => (Number.isNaN(Number(word)) ? word : Number(word))));
  }
  for (const mode of [...Object.keys(PATHS), "cancel", "status"]) assert.ok(messages.some((text) => text.startsWith(mode)), mode);
});

test("the page names every key", () => {
  const page = fs.readFileSync(new URL("../max/README.md", import.meta.url), "utf8");
  assert.deepEqual(KEYS.filter((key) => !page.includes(`\`${key}\``)), []);
});
