// Float32Array in, payload frames out, and back.
import { endianness } from "node:os";
import { SegueError } from "./errors.js";
import { LIMITS } from "./wire.js";

const SWAP = endianness() === "BE";

/**
 * Samples as the wire wants them: little-endian bytes.
 * @param {Float32Array} samples
 * @returns {Uint8Array} a copy, so that memory which is used again cannot change what is sent
 */
export function toBytes(samples) {
  const bytes = Buffer.from(new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength));
  return SWAP ? bytes.swap32() : bytes;
}

/**
 * @param {Uint8Array} bytes little-endian float32
 * @returns {Float32Array}
 */
export function toSamples(bytes) {
  const copy = new Uint8Array(bytes.length);
  copy.set(bytes);
  if (SWAP) Buffer.from(copy.buffer).swap32();
  return new Float32Array(copy.buffer, 0, bytes.length >> 2);
}

/**
 * Channels, one array each, put together frame after frame.
 * @param {Float32Array[]} planes
 */
export function interleave(planes) {
  const made = new Float32Array(planes[0].length * planes.length);
  for (const [channel, plane] of planes.entries()) {
    if (plane.length !== planes[0].length) {
      throw new SegueError("E_AUDIO", "The channels are not equally long.", { field: "audio", value: plane.length });
    }
    for (let at = 0; at < plane.length; at++) made[at * planes.length + channel] = plane[at];
  }
  return made;
}

/**
 * The opposite of `interleave`.
 * @param {Float32Array} samples
 * @param {number} channels
 * @returns {Float32Array[]}
 */
export function planes(samples, channels) {
  const frames = samples.length / channels;
  return Array.from({ length: channels }, (_, channel) => {
    const plane = new Float32Array(frames);
    for (let at = 0; at < frames; at++) plane[at] = samples[at * channels + channel];
    return plane;
  });
}

/**
 * Sounds as descriptions and payload frames; one longer than a frame may be becomes several pieces.
 * @param {any[]} sounds {samples, rate, channels, role, track?, position?, stem? …}
 * @param {number} frame_bytes the most in one payload
 * @returns {{descriptions: any[], payloads: Uint8Array[]}}
 * @throws {SegueError} E_AUDIO, E_ARGUMENT
 */
export function describe(sounds, frame_bytes = LIMITS.frame_bytes) {
  /** @type {any[]} */
  const descriptions = [];
  /** @type {Uint8Array[]} */
  const payloads = [];
  for (const [index, sound] of sounds.entries()) {
    const field = `audio[${index}]`;
    const { samples: given, channels: said, position, ...rest } = sound;
    const many = Array.isArray(given);
    const samples = many && given.length > 0 ? interleave(given) : given;
    const channels = many ? given.length : (said ?? 1);
    if (!(samples instanceof Float32Array)) {
      throw new SegueError("E_AUDIO", "Samples must be a Float32Array, or one Float32Array for each channel.", {
        field: `${field}.samples`, allowed: "Float32Array",
      });
    }
    if (channels !== 1 && channels !== 2) {
      throw new SegueError("E_AUDIO", `Audio has 1 or 2 channels, not ${channels}.`, {
        field: `${field}.channels`, value: channels, allowed: "1 or 2",
      });
    }
    if (samples.length === 0 || samples.length % channels !== 0) {
      throw new SegueError("E_AUDIO", "The audio is empty, or its last frame is not whole.", {
        field: `${field}.samples`, value: samples.length, allowed: `a multiple of ${channels} above 0`,
      });
    }
    const step = Math.floor(frame_bytes / (4 * channels)) * channels;
    for (let at = 0; at < samples.length; at += step) {
      const piece = samples.subarray(at, Math.min(samples.length, at + step));
      descriptions.push({
        ...rest,
        channels,
        frames: piece.length / channels,
        format: "f32le",
        layout: "interleaved",
        position: at === 0 ? (position ?? undefined) : undefined, // the first piece says where the sound lies
      });
      payloads.push(toBytes(piece));
    }
  }
  return { descriptions, payloads };
}
