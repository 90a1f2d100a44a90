// One question after the other over a REQ socket, asked again until it is answered: "Retrying" of SPEC.md.
import { SegueError } from "./errors.js";
import { sleep } from "./link.js";
import { replaced } from "./connection.js";
import { decodeMessage, encodeRequest } from "./wire.js";

const ANSWER_MS = 3000;
const SLOW_OPS = new Set(["models", "pause", "fetch"]);
const SLOW_MS = 20_000;

/**
 * @typedef {object} Answer
 * @property {any} reply the header
 * @property {Uint8Array[]} payloads
 */

/** @typedef {{signal?: AbortSignal, patience_ms?: number}} AskOptions */

/** A socket that is made anew whenever an answer stays away; questions wait for their turn. */
export class Channel {
  /** @param {import("./reaching.js").Reaching} reaching */
  constructor(reaching) {
    this.reaching = reaching;
    /** @type {import("./link.js").Link | null} */
    this.link = null;
    this.id = 0;
    this.turn = Promise.resolve();
    this.closed = false;
  }

  close() {
    this.closed = true;
    this.#drop();
  }

  #drop() {
    this.link?.close();
    this.link = null;
  }

  /**
   * @param {string} op
   * @param {Record<string, any>} [fields]
   * @param {Uint8Array[]} [payloads]
   * @param {AskOptions} [options]
   * @returns {Promise<Answer>}
   */
  async ask(op, fields = {}, payloads = [], options = {}) {
    const before = this.turn;
    /** @type {() => void} */
    let over = () => {};
    this.turn = new Promise((resolve) => (over = () => resolve(undefined)));
    try {
      await before;
      return await this.#ask(op, fields, payloads, options);
    } finally {
      over();
    }
  }

  /** @param {string} op @param {Record<string, any>} fields @param {Uint8Array[]} payloads @param {AskOptions} options @returns {Promise<Answer>} */
  async #ask(op, fields, payloads, { signal, patience_ms = this.reaching.patience_ms }) {
    const deadline = Date.now() + patience_ms;
    const held_ms = Number.isInteger(fields.wait_ms) ? fields.wait_ms : 0;
    const answer_ms = (SLOW_OPS.has(op) ? SLOW_MS : ANSWER_MS) + held_ms;
    for (;;) {
      if (this.closed) throw new SegueError("E_UNREACHABLE", "This client was closed.");
      if (this.link !== null && replaced(this.link.connection)) this.#drop();
      if (this.link === null) {
        this.link = await this.reaching.reach(deadline, signal);
      }
      const error = await this.#once(op, fields, payloads, answer_ms, signal);
      if (!(error instanceof SegueError)) return error;
      const wait_ms = waitBefore(error);
      if (wait_ms === null) throw error;
      if (Date.now() + wait_ms >= deadline) {
        if (error.code !== "E_TIMEOUT") throw error;
        throw new SegueError("E_TIMEOUT", "The daemon does not answer; `segue doctor` says why and what to do.", { detail: op });
      }
      if (error.retry === "reconnect") this.#drop();
      this.reaching.say(error.message);
      await sleep(wait_ms, signal);
    }
  }

  /**
   * @param {string} op @param {Record<string, any>} fields @param {Uint8Array[]} payloads
   * @param {number} answer_ms @param {AbortSignal} [signal]
   * @returns {Promise<Answer | SegueError>}
   */
  async #once(op, fields, payloads, answer_ms, signal) {
    const link = /** @type {import("./link.js").Link} */ (this.link);
    const id = ++this.id;
    const frames = encodeRequest(op, id, fields, payloads, link.connection.token, this.reaching.limits);
    try {
      if (await link.send(frames, signal)) {
        const got = await link.receive(answer_ms, { signal, lost: () => replaced(link.connection) });
        if (got !== null) return readAnswer(op, id, decodeMessage(got));
      }
    } catch (error) {
      this.#drop(); // a REQ socket that waits for an answer is of no further use
      throw error;
    }
    this.#drop();
    return new SegueError("E_TIMEOUT", "The daemon does not answer; asking again.", { retry: "same", detail: op });
  }
}

/**
 * @param {string} op @param {number} id
 * @param {{header: any, payloads: Uint8Array[]}} message
 * @returns {Answer | SegueError}
 */
export function readAnswer(op, id, { header, payloads }) {
  if (header.ok === false) return SegueError.fromWire(header.error);
  if (header.op !== op || header.id !== id || header.ok !== true) {
    throw new SegueError("E_HEADER", "The daemon answered another question than the one that was asked.");
  }
  return { reply: header, payloads };
}

/** How long to wait before the same may be sent again; null: not at all. @param {SegueError} error */
export function waitBefore(error) {
  if (error.retry === "same") return error.retry_ms ?? 20;
  if (error.retry === "after") return error.retry_ms ?? 1000;
  if (error.retry === "reconnect") return error.retry_ms ?? 250;
  return null;
}
