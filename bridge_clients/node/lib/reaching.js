// Coming to a daemon that answers: look, say hello, start one if allowed, wait until it is ready.
import * as dns from "node:dns/promises";
import { findConnection, readKeyFile } from "./connection.js";
import { readAnswer } from "./channel.js";
import { SegueError } from "./errors.js";
import { Link, sleep } from "./link.js";
import { Starting } from "./starting.js";
import { LIMITS, MAJOR, MINOR, decodeMessage, encodeRequest } from "./wire.js";

const HELLO_MS = 2500;
const PAUSE_MS = 100;
const GONE_MS = 5000;
const SILENT_MS = 5000; // a daemon whose process lives gets so long to answer the first hello

/** What the sockets of one client share: how to find the daemon, and who it was when last met. */
export class Reaching {
  /**
   * @param {{folder?: string, keyFile?: string, start?: boolean, command?: string[], name?: string,
   *          version?: string, patience_ms?: number, onWait?: (why: string) => void,
   *          onHello?: (hello: any) => void}} options
   */
  constructor(options) {
    this.folder = options.folder;
    this.keyFile = options.keyFile ?? (options.folder === undefined ? process.env.SEGUE_CONNECTION || undefined : undefined);
    this.start = (options.start ?? true) && this.keyFile === undefined;
    this.command = options.command ?? [process.env.SEGUE_COMMAND || "segue", "serve"];
    this.name = options.name ?? "segue-node";
    this.version = options.version ?? "";
    this.patience_ms = options.patience_ms ?? 60_000;
    this.onWait = options.onWait;
    this.onHello = options.onHello;
    /** @type {any} */
    this.hello = null;
    this.limits = LIMITS;
    this.met = false;
    /** @type {Starting | null} */
    this.starting = null;
    this.said = "";
  }

  /** Told once, in a sentence, whatever is waited for. @param {string} why */
  say(why) {
    if (why !== this.said) {
      this.said = why;
      this.onWait?.(why);
    }
  }

  /**
   * A link to a daemon that has answered and is ready.
   * @param {number} deadline Date.now() at which to give up
   * @param {AbortSignal} [signal]
   * @param {"req" | "dealer"} [kind]
   * @returns {Promise<Link>}
   * @throws {SegueError} E_UNREACHABLE, E_TIMEOUT, E_VERSION
   */
  async reach(deadline, signal, kind = "req") {
    const silent_by = Math.min(deadline, Date.now() + SILENT_MS);
    for (;;) {
      const connection = this.keyFile === undefined ? findConnection(this.folder) : readKeyFile(this.keyFile);
      for (const endpoint of connection?.endpoints ?? []) {
        const link = new Link(/** @type {any} */ (connection), await numeric(endpoint), kind);
        const hello = await this.#greet(link, signal);
        if (hello?.ready || (hello !== null && !this.start && !this.met)) {
          this.#welcome(hello);
          return link;
        }
        link.close();
        if (hello !== null) {
          this.say(`Waiting for the daemon: ${hello.waiting_for ?? "it is starting"}.`);
          break;
        }
      }
      if (this.starting?.failed != null) {
        const failed = this.starting.failed;
        this.starting = null;
        throw failed;
      }
      if (this.start && this.starting === null) {
        this.say("Starting the daemon.");
        this.starting = new Starting(this.command, this.folder);
      } else if (!this.start && !this.met && (connection === null || !isAlive(connection) || Date.now() >= silent_by)) {
        throw this.#unreachable(connection);
      } else {
        this.say("Waiting for the daemon to come back.");
      }
      if (Date.now() >= deadline) {
        throw new SegueError("E_TIMEOUT", `The daemon was not ready in time. ${this.said}`, { detail: this.said });
      }
      await sleep(PAUSE_MS, signal);
      if (this.starting !== null && this.starting.failed === null && this.starting.sinceEnd_ms() > GONE_MS) {
        this.starting = null; // it came and went: another is started
      }
    }
  }

  /** @param {import("./connection.js").Connection | null} connection */
  #unreachable(connection) {
    const where = { field: "connection", value: connection?.file };
    if (this.keyFile !== undefined) {
      const said = `No daemon answers at ${connection?.endpoints[0]}: it does not run, or does not let this key in.`;
      return new SegueError("E_UNREACHABLE", said, where);
    }
    if (connection !== null && isAlive(connection)) {
      const said = `The daemon (process ${connection.pid}) does not answer; \`segue doctor\` says why.`;
      return new SegueError("E_UNREACHABLE", said, where);
    }
    return new SegueError("E_UNREACHABLE", "The daemon is not running; `segue serve` starts it.", where);
  }

  /** @param {any} hello */
  #welcome(hello) {
    this.starting = null;
    this.met = true;
    this.said = "";
    this.limits = { ...LIMITS, ...(hello.limits ?? {}) };
    const other = this.hello?.boot !== hello.boot;
    this.hello = hello;
    if (other) this.onHello?.(hello);
  }

  /** @param {Link} link @param {AbortSignal} [signal] @returns {Promise<any>} null when nobody answers */
  async #greet(link, signal) {
    const fields = { client: this.name, version: this.version, protocol: [MAJOR, MINOR] };
    try {
      const frames = encodeRequest("hello", 0, fields, [], link.connection.token);
      if (!(await link.send(frames, signal))) return null;
      const got = await link.receive(HELLO_MS, { signal });
      if (got === null) return null;
      const answer = readAnswer("hello", 0, decodeMessage(got));
      if (answer instanceof SegueError) throw answer;
      if (answer.reply.protocol?.[0] !== MAJOR) {
        throw new SegueError(
          "E_VERSION",
          `The daemon (process ${answer.reply.pid}) speaks protocol ${answer.reply.protocol?.[0]}, this client ${MAJOR}: update the older side.`,
          { value: answer.reply.protocol, allowed: String(MAJOR) },
        );
      }
      return { ...answer.reply, ready: answer.reply.ready ?? true };
    } catch (error) {
      link.close();
      throw error;
    }
  }
}

/** False when the daemon's process is surely gone. @param {import("./connection.js").Connection} connection */
function isAlive(connection) {
  if (connection.remote || connection.pid <= 0) return true;
  try {
    process.kill(connection.pid, 0);
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code !== "ESRCH";
  }
  return true;
}

/** A name server that hangs must not hold libzmq's own end. @param {string} endpoint */
async function numeric(endpoint) {
  const found = /^tcp:\/\/([^\d[][^:]*):(\d+)$/.exec(endpoint);
  if (found === null) return endpoint;
  try {
    return `tcp://${(await dns.lookup(found[1], { family: 4 })).address}:${found[2]}`;
  } catch {
    throw new SegueError("E_UNREACHABLE", `The name ${found[1]} cannot be found in the network.`, {
      field: "connection", value: endpoint,
    });
  }
}
