// What needs no daemon: checksums, WAV files, channels, who may be trusted, the types' names.
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import * as segue from "../index.js";
import { describe as describeAudio } from "../lib/audio.js";
import { crc32Portable } from "../lib/crc32.js";

const { Assembly, SegueError, crc32, findConnection, interleave, planes, readKeyFile, readWav, runtimeFolders, writeWav } = segue;

test("CRC-32 is that of zlib, with and without Node's own", () => {
  for (const one of [crc32, crc32Portable]) {
    assert.equal(one(Buffer.from("123456789")), 0xcbf43926);
    assert.equal(one(new Uint8Array(0)), 0);
    assert.equal(one(new Uint8Array(4)), 0x2144df1c);
  }
  const noise = Uint8Array.from({ length: 1037 }, (_, at) => (at * 7919) >> 3);
  assert.equal(crc32Portable(noise), crc32(noise));
  assert.equal(crc32Portable(noise.subarray(13), crc32Portable(noise.subarray(0, 13))), crc32Portable(noise));
});

test("float WAV comes back bit for bit; 16, 24 and 32 bit are read", () => {
  const samples = Float32Array.of(0, 0.5, -1, 1.5, -0.25, 1e-20);
  const read = readWav(writeWav(samples, 44_100, 2));
  assert.deepEqual([read.rate, read.channels, read.frames], [44_100, 2, 3]);
  assert.deepEqual(read.samples, samples);
  for (const bits of [16, 24, 32]) {
    const bytes = bits / 8;
    const head = Buffer.alloc(44);
    head.write("RIFF", 0);
    head.write("WAVEfmt ", 8);
    head.writeUInt32LE(16, 16);
    head.writeUInt16LE(1, 20);
    head.writeUInt16LE(1, 22);
    head.writeUInt32LE(48_000, 24);
    head.writeUInt16LE(bits, 34);
    head.write("data", 36);
    head.writeUInt32LE(3 * bytes, 40);
    const data = Buffer.alloc(3 * bytes);
    data.writeIntLE(2 ** (bits - 2), 0, bytes);
    data.writeIntLE(-(2 ** (bits - 1)), bytes, bytes);
    assert.deepEqual([...readWav(Buffer.concat([head, data])).samples], [0.5, -1, 0], `${bits} bit`);
  }
  const junk = Buffer.concat([Buffer.from("RIFFxxxxWAVE"), Buffer.from("JUNK\x03\0\0\0abc\0"), Buffer.from(writeWav(samples, 8000, 1)).subarray(12)]);
  assert.deepEqual(readWav(junk).samples, samples);
  for (const bad of [Buffer.alloc(0), Buffer.alloc(100), Buffer.from("RIFF1234WAVEdata")]) {
    assert.throws(() => readWav(bad), { code: "E_AUDIO" });
  }
});

test("channels are put together and taken apart", () => {
  const both = interleave([Float32Array.of(1, 2, 3), Float32Array.of(4, 5, 6)]);
  assert.deepEqual([...both], [1, 4, 2, 5, 3, 6]);
  assert.deepEqual(planes(both, 2).map((plane) => [...plane]), [[1, 2, 3], [4, 5, 6]]);
  assert.throws(() => interleave([new Float32Array(2), new Float32Array(3)]), { code: "E_AUDIO" });
});

test("audio is cut into payloads at whole frames, and copied", () => {
  const samples = Float32Array.from({ length: 14 }, (_, at) => at);
  const { descriptions, payloads } = describeAudio([{ samples, rate: 48_000, channels: 2, role: "context", position: -3, track: 1 }], 28);
  assert.deepEqual(descriptions.map((one) => [one.frames, one.position, one.track]), [[3, -3, 1], [3, undefined, 1], [1, undefined, 1]]);
  samples.fill(0);
  assert.equal(Buffer.concat(payloads).readFloatLE(13 * 4), 13);
  for (const bad of [{ samples: [] }, { samples: new Float32Array(3), channels: 2 }, { samples: new Float32Array(6), channels: 3 }, { samples: new Int16Array(4) }, { samples: new Float32Array(0) }]) {
    assert.throws(() => describeAudio([{ rate: 48_000, ...bad }]), { code: "E_AUDIO" });
  }
});

test("takes: what is declared void is taken out, a gap is refused", () => {
  const piece = (position, values, variation = 0) => ({
    event: "audio", variation, stem: "mix", position, frames: values.length, rate: 8000, channels: 1, samples: Float32Array.from(values),
  });
  const takes = new Assembly();
  for (const event of [piece(-2, [1, 2]), piece(0, [3, 4, 5]), piece(0, [8, 9], 1)]) takes.add(event);
  takes.add({ event: "requeued", why: "" });
  assert.equal(takes.get().frames, 5);
  takes.add({ event: "requeued", discard_from: 1 });
  takes.add(piece(1, [7]));
  assert.deepEqual([...takes.get().samples], [1, 2, 3, 7]);
  takes.add({ event: "requeued", discard_from: -100 });
  assert.equal(takes.get(), undefined);
  takes.add(piece(0, [1]));
  assert.throws(() => takes.add(piece(2, [1])), { code: "E_AUDIO" });
  assert.equal(takes.get(3), undefined);
});

test("a connection file is taken only from a folder and a file that are the user's alone", (t) => {
  const folder = fs.mkdtempSync("/tmp/segue-n-");
  t.after(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, "connection.json");
  assert.equal(findConnection(folder), null);
  const good = { endpoints: ["tcp://127.0.0.1:1", "ipc:///x"], token: "ab".repeat(32), pid: 7 };
  fs.writeFileSync(file, JSON.stringify(good), { mode: 0o600 });
  const found = findConnection(folder);
  assert.deepEqual([found.endpoints[0], found.token[31], found.pid], ["ipc:///x", 0xab, 7]);
  const refused = (why) => assert.throws(() => findConnection(folder), (error) => error instanceof SegueError && error.code === "E_UNREACHABLE" && why.test(error.message));
  fs.chmodSync(file, 0o640);
  refused(/others can read/);
  fs.chmodSync(file, 0o600);
  fs.chmodSync(folder, 0o750);
  refused(/its folder/);
  fs.chmodSync(folder, 0o700);
  for (const bad of ["", "[]", "{", JSON.stringify({ ...good, token: "short" }), JSON.stringify({ ...good, endpoints: [] }), "x".repeat(70_000)]) {
    fs.writeFileSync(file, bad);
    refused(/not JSON|names no endpoint|too long/);
  }
  fs.renameSync(file, path.join(folder, "elsewhere"));
  fs.symlinkSync(path.join(folder, "elsewhere"), file);
  refused(/link/);
  if (process.getuid() === 0) {
    fs.rmSync(file);
    fs.writeFileSync(file, JSON.stringify(good), { mode: 0o600 });
    fs.chownSync(file, 65_534, 65_534);
    refused(/another user/);
  }
  assert.throws(() => readKeyFile(path.join(folder, "none.key")), { code: "E_UNREACHABLE", field: "connection" });
});

test("where a daemon is looked for", () => {
  assert.deepEqual(runtimeFolders({ SEGUE_RUNTIME: "/a/b" }), ["/a/b"]);
  assert.equal(runtimeFolders({}).at(-1), `/tmp/segue-${process.getuid()}`);
  const folder = fs.mkdtempSync("/tmp/segue-n-");
  if (process.platform === "linux") assert.equal(runtimeFolders({ XDG_RUNTIME_DIR: folder })[0], path.join(folder, "segue"));
  assert.equal(runtimeFolders({ XDG_RUNTIME_DIR: `/tmp/${"x".repeat(120)}` }).some((one) => one.includes("xxx")), false);
  fs.rmdirSync(folder);
});

test("the types name what is there", () => {
  const text = fs.readFileSync(new URL("../index.d.ts", import.meta.url), "utf8");
  const declared = [...text.matchAll(/^export (?:class|function|const) (\w+)/gm)].map((found) => found[1]);
  assert.deepEqual(declared.sort(), Object.keys(segue).sort());
  for (const name of ["Segue", "Job", "Assembly"]) {
    const block = new RegExp(`export class ${name}\\b[^]*?\n}`).exec(text)[0];
    for (const method of Object.getOwnPropertyNames(segue[name].prototype).filter((one) => one !== "constructor")) {
      assert.match(block, new RegExp(`\\b${method}\\b`), `${name}.${method}`);
    }
  }
});
