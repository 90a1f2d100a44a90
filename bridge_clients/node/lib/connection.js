// Where a daemon is, and by which key it lets us in. A file that others could have written is refused.
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { SegueError } from "./errors.js";

const FILE_BYTES = 65_536;
const SOCKET_PATH_BYTES = 103;

/**
 * What a connection file or key file says.
 * @typedef {object} Connection
 * @property {string[]} endpoints to be tried in order, ipc first
 * @property {Uint8Array} token 32 bytes
 * @property {string | null} serverKey the daemon's CURVE key
 * @property {string | null} publicKey of the client
 * @property {string | null} secretKey of the client
 * @property {number} pid
 * @property {string} file
 * @property {string} signature changes when the file does
 * @property {boolean} remote from a key file: never started from here
 */

/**
 * The folders in which a daemon of this user may be, the usual one first.
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {string[]}
 */
export function runtimeFolders(env = process.env) {
  if (env.SEGUE_RUNTIME) return [path.resolve(env.SEGUE_RUNTIME.replace(/^~(?=\/|$)/, os.homedir()))];
  const uid = process.getuid?.() ?? 0;
  const usual = process.platform === "darwin"
    ? [path.join(os.homedir(), "Library/Caches/TemporaryItems/segue")]
    : [
        ...(env.XDG_RUNTIME_DIR?.trim() ? [path.join(env.XDG_RUNTIME_DIR, "segue")] : []),
        `/run/user/${uid}/segue`,
        path.join(os.tmpdir(), `runtime-${uid}/segue`),
      ];
  const fitting = usual.filter(
    (folder) =>
      Buffer.byteLength(path.join(folder, "segue.sock")) <= SOCKET_PATH_BYTES && isOwnFolder(path.dirname(folder)),
  );
  return [...fitting, `/tmp/segue-${uid}`];
}

/** @param {string} folder */
function isOwnFolder(folder) {
  try {
    const info = fs.lstatSync(folder);
    const own = info.isDirectory() && info.uid === (process.getuid?.() ?? info.uid);
    return own && (process.platform === "darwin" || (info.mode & 0o777) === 0o700);
  } catch {
    return false;
  }
}

/**
 * The connection file of a daemon that runs, or ran; null when there is none.
 * @param {string} [folder] the runtime folder, if not one of the usual
 * @returns {Connection | null}
 * @throws {SegueError} E_UNREACHABLE when the file or its folder is not this user's alone
 */
export function findConnection(folder) {
  for (const place of folder === undefined ? runtimeFolders() : [folder]) {
    let info;
    try {
      info = fs.lstatSync(place);
    } catch {
      continue;
    }
    const file = path.join(place, "connection.json");
    if (!info.isDirectory()) throw unsafe(file, "its folder is a link or no folder");
    checkPrivate(file, info, "its folder");
    const found = readFile(file, false);
    if (found !== null) return found;
  }
  return null;
}

/**
 * @param {string} file
 * @returns {Connection}
 * @throws {SegueError} E_UNREACHABLE when there is none, or others can read it
 */
export function readKeyFile(file) {
  const found = readFile(path.resolve(file), true);
  if (found === null) {
    throw new SegueError("E_UNREACHABLE", `There is no key file ${file}; \`segue keys new NAME\` makes one.`, {
      field: "connection", value: file,
    });
  }
  return found;
}

/**
 * Whether the file has been replaced or taken away since it was read: then the daemon is another.
 * @param {Connection} connection
 */
export function replaced(connection) {
  try {
    return signatureOf(fs.lstatSync(connection.file, { bigint: true })) !== connection.signature;
  } catch {
    return true;
  }
}

/** @param {fs.BigIntStats} info */
function signatureOf(info) {
  return `${info.ino}/${info.mtimeNs}/${info.size}`;
}

/** @param {string} file @param {boolean} remote @returns {Connection | null} */
function readFile(file, remote) {
  let descriptor;
  try {
    descriptor = fs.openSync(file, fs.constants.O_RDONLY | (fs.constants.O_NOFOLLOW ?? 0) | (fs.constants.O_NONBLOCK ?? 0));
  } catch (error) {
    const code = /** @type {NodeJS.ErrnoException} */ (error).code;
    if (code === "ENOENT") return null;
    throw unsafe(file, code === "ELOOP" ? "it is a link" : `it cannot be read (${code})`);
  }
  try {
    const info = fs.fstatSync(descriptor);
    if (!info.isFile()) throw unsafe(file, "it is not a file");
    checkPrivate(file, info, "it");
    if (info.size > FILE_BYTES) throw unsafe(file, "it is too long");
    const signature = signatureOf(fs.fstatSync(descriptor, { bigint: true }));
    return parse(file, fs.readFileSync(descriptor, "utf8"), signature, remote);
  } finally {
    fs.closeSync(descriptor);
  }
}

/** @param {string} file @param {string} text @param {string} signature @param {boolean} remote @returns {Connection} */
function parse(file, text, signature, remote) {
  let map;
  try {
    map = JSON.parse(text);
  } catch {
    throw unsafe(file, "it is not JSON");
  }
  const endpoints = Array.isArray(map?.endpoints)
    ? map.endpoints.filter((/** @type {unknown} */ one) => typeof one === "string")
    : [];
  if (endpoints.length === 0 || typeof map.token !== "string" || !/^[0-9a-f]{64}$/i.test(map.token)) {
    throw unsafe(file, "it names no endpoint or no token");
  }
  endpoints.sort((/** @type {string} */ a, /** @type {string} */ b) => Number(b.startsWith("ipc:")) - Number(a.startsWith("ipc:")));
  const z85 = (/** @type {unknown} */ key) => (typeof key === "string" && key.length === 40 ? key : null);
  return {
    endpoints,
    token: Uint8Array.from(Buffer.from(map.token, "hex")),
    serverKey: z85(map.curve_public_key),
    publicKey: z85(map.client_public_key),
    secretKey: z85(map.client_secret_key),
    pid: Number.isInteger(map.pid) ? map.pid : 0,
    file,
    signature,
    remote,
  };
}

/** @param {string} file @param {fs.Stats} info @param {string} what */
function checkPrivate(file, info, what) {
  if (process.getuid !== undefined && info.uid !== process.getuid()) {
    throw unsafe(file, `${what} belongs to another user`);
  }
  if (process.platform !== "win32" && (info.mode & 0o077) !== 0) {
    throw unsafe(file, `others can read or write ${what}`);
  }
}

/** @param {string} file @param {string} why */
function unsafe(file, why) {
  return new SegueError("E_UNREACHABLE", `${file} is not used: ${why}.`, {
    field: "connection", value: file, allowed: "a file of your own with mode 0600 in a folder of your own with mode 0700",
  });
}
