// The protocol's own byte vectors: what they mean is what this client reads and writes.
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { test } from "node:test";
import { Decoder } from "@msgpack/msgpack";
import { SegueError, crc32, decodeMessage, encodeRequest } from "../index.js";

const FOLDER = new URL("../../../protocol/vectors/", import.meta.url);
const TOKEN = Uint8Array.from({ length: 32 }, (_, at) => at);

const load = (name) => JSON.parse(fs.readFileSync(new URL(`${name}.json`, FOLDER), "utf8"));
const bytes = (frame) =>
  Uint8Array.from(typeof frame === "string" ? Buffer.from(frame, "hex") : Buffer.alloc(frame.times, Buffer.from(frame.hex, "hex")));
/** Vectors say binaries as {"bin": hex}. */
function inWords(value) {
  if (value instanceof Uint8Array) return { bin: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(inWords);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, inWords(item)]));
  }
  return value;
}
function asGiven(value) {
  if (Array.isArray(value)) return value.map(asGiven);
  if (value !== null && typeof value === "object") {
    if (typeof value.bin === "string") return Uint8Array.from(Buffer.from(value.bin, "hex"));
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asGiven(item)]));
  }
  return value;
}

test("every request of the vectors is written with the same meaning", async (t) => {
  const vectors = load("requests");
  assert.ok(vectors.length >= 20);
  for (const vector of vectors) {
    await t.test(vector.name, () => {
      const { op, id, ...fields } = asGiven(vector.header);
      const payloads = vector.frames.slice(2).map(bytes);
      const frames = encodeRequest(op, id, fields, payloads, TOKEN);
      assert.deepEqual(Buffer.from(frames[0]), Buffer.from(bytes(vector.frames[0])));
      assert.deepEqual(inWords(new Decoder().decode(frames[1])), vector.header);
      assert.deepEqual(
        inWords(new Decoder().decode(frames[1])),
        inWords(new Decoder().decode(bytes(vector.frames[1]))),
      );
      assert.deepEqual(frames.slice(2).map((f) => Buffer.from(f)), payloads.map((f) => Buffer.from(f)));
    });
  }
});

for (const file of ["replies", "pushes"]) {
  test(`every message of ${file} is read`, async (t) => {
    for (const vector of load(file)) {
      await t.test(vector.name, () => {
        const { header, payloads } = decodeMessage(vector.frames.map(bytes));
        assert.deepEqual(inWords(header), vector.header);
        assert.equal(payloads.length, vector.frames.length - 2);
        for (const event of header.event === "audio" ? [header] : (header.events ?? [])) {
          if (event.event === "audio" && event.payload != null) assert.equal(crc32(payloads[event.payload]), event.crc);
        }
        if (header.data) assert.equal(crc32(payloads[payloads.length - 1]), header.data.crc);
      });
    }
  });
}

test("refusals become typed errors", async (t) => {
  for (const vector of load("errors")) {
    await t.test(vector.name, () => {
      const { header } = decodeMessage(vector.frames.map(bytes));
      assert.equal(header.ok, false);
      const error = SegueError.fromWire(header.error);
      assert.ok(error instanceof Error);
      for (const [key, value] of Object.entries(vector.header.error)) assert.deepEqual(error[key], value, key);
    });
  }
});

test("what is no answer of a daemon is refused, never crashed over", () => {
  const good = load("replies")[0].frames.map(bytes);
  const wrong = [
    [],
    [good[0]],
    [good[0].subarray(1), good[1]],
    [Uint8Array.from(good[0], (byte, at) => (at === 3 ? 2 : byte)), good[1]],
    [good[0], Uint8Array.of(0xc1)],
    [good[0], Uint8Array.of(0x93, 1, 2, 3)],
    [good[0], good[1].subarray(0, good[1].length - 1)],
    [good[0], good[1], Uint8Array.of(1)],
    [good[0], Uint8Array.of(0xd4, 5, 0)],
  ];
  for (const frames of wrong) assert.throws(() => decodeMessage(frames), SegueError);
  for (const vector of load("malformed")) {
    const frames = vector.frames.map(bytes).slice(2);
    try {
      decodeMessage(frames);
    } catch (error) {
      assert.ok(error instanceof SegueError, `${vector.name}: ${error}`);
    }
  }
});

test("limits hold before anything is sent", () => {
  const ask = (fields, payloads = []) => encodeRequest("submit", 1, fields, payloads, TOKEN);
  const code = (wanted) => (error) => error instanceof SegueError && error.code === wanted;
  assert.throws(() => ask({ text: "x".repeat(70_000) }), code("E_SIZE"));
  assert.throws(() => ask({}, [new Uint8Array(4_194_305)]), code("E_SIZE"));
  assert.throws(() => ask({}, Array.from({ length: 65 }, () => new Uint8Array(1))), code("E_SIZE"));
  assert.throws(() => ask({}, Array.from({ length: 17 }, () => new Uint8Array(4_194_304))), code("E_SIZE"));
  assert.throws(() => ask({ seed: Number.NaN }), code("E_ARGUMENT"));
  assert.throws(() => ask({ length: { seconds: Infinity } }), (error) => error.field === "length.seconds");
  assert.throws(() => ask({ a: { b: { c: { d: { e: { f: { g: { h: {} } } } } } } } }), code("E_HEADER"));
  assert.throws(() => ask({ samples: new Float32Array(3) }), code("E_ARGUMENT"));
});
