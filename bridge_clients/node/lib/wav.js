// WAV files: read what DAWs write (16, 24, 32 bit and float), write float32.
import { SegueError } from "./errors.js";
import { toBytes, toSamples } from "./audio.js";

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;

/**
 * @param {Uint8Array} bytes a whole file
 * @returns {{samples: Float32Array, rate: number, channels: number, frames: number}} interleaved
 * @throws {SegueError} E_AUDIO
 */
export function readWav(bytes) {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = (/** @type {number} */ at) => file.toString("latin1", at, at + 4);
  if (file.length < 12 || !["RIFF", "RF64"].includes(name(0)) || name(8) !== "WAVE") throw bad("it is not a WAV file");
  let format = 0, channels = 0, rate = 0, bits = 0;
  for (let at = 12; at + 8 <= file.length; ) {
    const kind = name(at);
    const body = at + 8;
    const size = Math.min(file.readUInt32LE(at + 4), file.length - body); // a file still being written ends early
    if (kind === "fmt ") {
      if (size < 16) throw bad("its header is too short");
      format = file.readUInt16LE(body);
      channels = file.readUInt16LE(body + 2);
      rate = file.readUInt32LE(body + 4);
      bits = file.readUInt16LE(body + 14);
      if (format === EXTENSIBLE && size >= 26) format = file.readUInt16LE(body + 24);
    } else if (kind === "data") {
      if (channels === 0 || rate === 0) throw bad("its header says no channels or no rate");
      const frame = (bits / 8) * channels;
      const frames = Math.floor(size / frame);
      const data = file.subarray(body, body + frames * frame);
      return { samples: decode(data, format, bits), rate, channels, frames };
    }
    at = body + size + (size % 2);
  }
  throw bad("it holds no audio");
}

/** @param {Buffer} data @param {number} format @param {number} bits */
function decode(data, format, bits) {
  if (format === FLOAT && bits === 32) return toSamples(data);
  const bytes = bits / 8;
  const made = new Float32Array(data.length / bytes);
  if (format === FLOAT && bits === 64) {
    for (let i = 0; i < made.length; i++) made[i] = data.readDoubleLE(8 * i);
  } else if (format === PCM && (bits === 16 || bits === 24 || bits === 32)) {
    const full = 2 ** (bits - 1);
    for (let i = 0; i < made.length; i++) made[i] = data.readIntLE(bytes * i, bytes) / full;
  } else {
    throw bad(`its samples (format ${format}, ${bits} bit) are of no known kind`);
  }
  return made;
}

/**
 * A float32 WAV file.
 * @param {Float32Array} samples interleaved @param {number} rate @param {number} channels
 * @returns {Uint8Array}
 */
export function writeWav(samples, rate, channels) {
  const data = toBytes(samples);
  const head = Buffer.alloc(58);
  head.write("RIFF", 0, "latin1");
  head.writeUInt32LE(50 + data.length, 4);
  head.write("WAVEfmt ", 8, "latin1");
  head.writeUInt32LE(18, 16);
  head.writeUInt16LE(FLOAT, 20);
  head.writeUInt16LE(channels, 22);
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE(rate * channels * 4, 28);
  head.writeUInt16LE(channels * 4, 32);
  head.writeUInt16LE(32, 34);
  head.write("fact", 38, "latin1");
  head.writeUInt32LE(4, 42);
  head.writeUInt32LE(samples.length / channels, 46);
  head.write("data", 50, "latin1");
  head.writeUInt32LE(data.length, 54);
  return Buffer.concat([head, data]);
}

/** @param {string} why */
function bad(why) {
  return new SegueError("E_AUDIO", `The file cannot be used: ${why}.`, {
    field: "audio", allowed: "WAV with 16, 24 or 32 bit, or float",
  });
}
