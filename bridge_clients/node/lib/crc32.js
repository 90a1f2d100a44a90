// CRC-32 as in zlib: Node has one of its own from 20.15 and 22.2 on; before that eight tables, about 1 GB/s.
import * as zlib from "node:zlib";

const TABLES = Array.from({ length: 8 }, () => new Uint32Array(256));
for (let i = 0; i < 256; i++) {
  let value = i;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  TABLES[0][i] = value;
}
for (let i = 0; i < 256; i++) {
  for (let t = 1; t < 8; t++) {
    TABLES[t][i] = TABLES[0][TABLES[t - 1][i] & 255] ^ (TABLES[t - 1][i] >>> 8);
  }
}

/**
 * In JavaScript alone.
 * @param {Uint8Array} bytes
 * @param {number} [before] the CRC of what comes before these bytes
 * @returns {number} unsigned
 */
export function crc32Portable(bytes, before = 0) {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
  let crc = ~before;
  let at = 0;
  const whole = bytes.length - (bytes.length % 8);
  for (; at < whole; at += 8) {
    crc ^= bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    crc =
      t7[crc & 255] ^ t6[(crc >>> 8) & 255] ^ t5[(crc >>> 16) & 255] ^ t4[crc >>> 24] ^
      t3[bytes[at + 4]] ^ t2[bytes[at + 5]] ^ t1[bytes[at + 6]] ^ t0[bytes[at + 7]];
  }
  for (; at < bytes.length; at++) crc = t0[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** @type {(bytes: Uint8Array, before?: number) => number} */
export const crc32 = typeof (/** @type {any} */ (zlib).crc32) === "function"
  ? /** @type {any} */ (zlib).crc32
  : crc32Portable;
