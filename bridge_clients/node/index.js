// Segue for Node: written from protocol/SPEC.md alone.
export { Segue } from "./lib/client.js";
export { Job, newKey } from "./lib/job.js";
export { Assembly } from "./lib/assembly.js";
export { SegueError } from "./lib/errors.js";
export { interleave, planes } from "./lib/audio.js";
export { readWav, writeWav } from "./lib/wav.js";
export { findConnection, readKeyFile, runtimeFolders } from "./lib/connection.js";
export { decodeMessage, encodeRequest, LIMITS, MAJOR, MINOR } from "./lib/wire.js";
export { crc32 } from "./lib/crc32.js";
