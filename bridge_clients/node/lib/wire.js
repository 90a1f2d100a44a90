// Messages as bytes: F0, the msgpack header F1, payloads. Nothing here knows sockets.
import { Decoder, Encoder } from "@msgpack/msgpack";
import { SegueError } from "./errors.js";

export const MAJOR = 1;
export const MINOR = 1;
export const LIMITS = Object.freeze({
  frame_bytes: 4_194_304,
  message_bytes: 67_108_864,
  header_bytes: 65_536,
  wait_ms: 25_000,
  credit_bytes: 8_388_608,
  payloads: 64,
  levels: 8,
  text_bytes: 16_384,
  binary_bytes: 4_096,
  array_items: 4_096,
  map_items: 256,
});

const MAGIC = [0x53, 0x47, 0x55];
const decoder = new Decoder({
  maxStrLength: LIMITS.text_bytes,
  maxBinLength: LIMITS.binary_bytes,
  maxArrayLength: LIMITS.array_items,
  maxMapLength: LIMITS.map_items,
  maxExtLength: 0,
});

/**
 * The frame that opens every message of a client.
 * @param {Uint8Array} token 32 bytes
 */
export function preamble(token) {
  const frame = new Uint8Array(36);
  frame.set(MAGIC);
  frame[3] = MAJOR;
  frame.set(token, 4);
  return frame;
}

/**
 * A request without its empty frame. Absent (undefined) fields do not travel.
 * @param {string} op
 * @param {number} id
 * @param {Record<string, any>} fields
 * @param {Uint8Array[]} payloads
 * @param {Uint8Array} token
 * @param {{frame_bytes: number, message_bytes: number, header_bytes: number}} [limits] of the running daemon
 * @returns {Uint8Array[]}
 * @throws {SegueError} E_SIZE, E_HEADER, E_ARGUMENT: libzmq would drop a message too large without a word
 */
export function encodeRequest(op, id, fields, payloads, token, limits = LIMITS) {
  const header = clean({ op, id, ...fields }, op, 1);
  let packed;
  try {
    packed = new Encoder({ maxDepth: LIMITS.levels + 1 }).encode(header);
  } catch (error) {
    throw new SegueError("E_HEADER", `The request ${op} cannot be packed: ${error}.`, { cause: error });
  }
  if (packed.length > limits.header_bytes) {
    throw tooLarge("header", packed.length, limits.header_bytes);
  }
  if (payloads.length > LIMITS.payloads) {
    throw new SegueError("E_SIZE", `A request takes at most ${LIMITS.payloads} pieces of audio.`, {
      field: "audio", value: payloads.length, allowed: `at most ${LIMITS.payloads}`,
    });
  }
  let total = 36 + packed.length;
  for (const payload of payloads) {
    if (payload.length > limits.frame_bytes) throw tooLarge("audio", payload.length, limits.frame_bytes);
    total += payload.length;
  }
  if (total > limits.message_bytes) throw tooLarge("audio", total, limits.message_bytes);
  return [preamble(token), packed, ...payloads];
}

/** @param {string} field @param {number} bytes @param {number} limit */
function tooLarge(field, bytes, limit) {
  return new SegueError("E_SIZE", `This is too much for one message: ${bytes} bytes, at most ${limit}.`, {
    field, value: bytes, allowed: `at most ${limit} bytes`,
  });
}

/**
 * What msgpack may be given: nothing undefined, no number that is none, nothing deeper than the limit.
 * @param {any} value @param {string} path @param {number} level
 * @returns {any}
 */
function clean(value, path, level) {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new SegueError("E_ARGUMENT", `${path} is not a finite number.`, {
      field: path, value: String(value), allowed: "a finite number",
    });
  }
  if (value === null || typeof value !== "object") return value;
  if (value instanceof Uint8Array) return value;
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    throw new SegueError("E_ARGUMENT", `${path} must be a Uint8Array, text, number, list or map.`, {
      field: path, allowed: "Uint8Array for bytes; samples belong into audio",
    });
  }
  if (level > LIMITS.levels) {
    throw new SegueError("E_HEADER", `${path} is nested deeper than ${LIMITS.levels} levels.`, { field: path });
  }
  if (Array.isArray(value)) {
    return value.map((item, index) => clean(item ?? null, `${path}[${index}]`, level + 1));
  }
  /** @type {Record<string, any>} */
  const made = {};
  for (const [key, item] of Object.entries(value)) {
    if (item !== undefined) made[key] = clean(item, level === 1 ? key : `${path}.${key}`, level + 1);
  }
  return made;
}

/**
 * A message of the daemon without its empty frame.
 * @param {Uint8Array[]} frames
 * @returns {{header: any, payloads: Uint8Array[]}}
 * @throws {SegueError} E_VERSION, E_HEADER
 */
export function decodeMessage(frames) {
  const first = frames[0];
  if (frames.length < 2 || first.length !== 36 || MAGIC.some((byte, at) => first[at] !== byte)) {
    throw new SegueError("E_HEADER", "What answered is not a Segue daemon.");
  }
  if (first[3] !== MAJOR) {
    throw new SegueError(
      "E_VERSION",
      `The daemon speaks protocol ${first[3]}, this client ${MAJOR}: update the older side.`,
      { value: first[3], allowed: String(MAJOR) },
    );
  }
  if (frames[1].length > LIMITS.header_bytes) throw tooLarge("header", frames[1].length, LIMITS.header_bytes);
  let header;
  try {
    header = decoder.decode(frames[1]);
  } catch (error) {
    throw new SegueError("E_HEADER", `The daemon's answer cannot be read: ${error}.`, { cause: error });
  }
  if (header === null || typeof header !== "object" || Array.isArray(header)) {
    throw new SegueError("E_HEADER", "The daemon's answer is not a map.");
  }
  const payloads = frames.slice(2);
  matchPayloads(/** @type {any} */ (header), payloads);
  return { header, payloads };
}

const SAMPLE_BYTES = /** @type {Record<string, number>} */ ({ f32le: 4, s24le: 3, s16le: 2 });

/** @param {any} header @param {Uint8Array[]} payloads */
function matchPayloads(header, payloads) {
  const described = Array.isArray(header.audio) ? header.audio : [];
  const data = header.data != null ? 1 : 0;
  if (described.length + data !== payloads.length) {
    throw new SegueError("E_HEADER", "The daemon's answer does not hold the payloads that it describes.");
  }
  for (const [at, one] of described.entries()) {
    const bytes = one.frames * one.channels * SAMPLE_BYTES[one.format ?? "f32le"];
    if (bytes !== payloads[at].length) {
      throw new SegueError("E_HEADER", `The daemon's audio ${at} is not as long as it says.`);
    }
  }
  if (data && header.data.bytes !== payloads[payloads.length - 1].length) {
    throw new SegueError("E_HEADER", "The daemon's data are not as long as it says.");
  }
}
