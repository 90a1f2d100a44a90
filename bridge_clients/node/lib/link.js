// One socket to one daemon. The settings are those that SPEC.md names, each for its measured reason.
import * as zmq from "zeromq";
import { SegueError } from "./errors.js";
import { LIMITS } from "./wire.js";

const CONNECT_MS = 1000;

/** @typedef {import("./connection.js").Connection} Connection */

/** The reason of an abort, for `throw`. @param {AbortSignal} signal */
export function abortReason(signal) {
  return signal.reason ?? new DOMException("This operation was aborted", "AbortError");
}

/**
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(abortReason(signal));
      return;
    }
    const abort = () => {
      clearTimeout(timer);
      reject(abortReason(/** @type {AbortSignal} */ (signal)));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** A REQ or DEALER socket; it belongs to whoever made it, and is closed after anything unclear. */
export class Link {
  /**
   * @param {Connection} connection
   * @param {string} endpoint
   * @param {"req" | "dealer"} [kind]
   */
  constructor(connection, endpoint, kind = "req") {
    this.connection = connection;
    this.endpoint = endpoint;
    this.closed = false;
    const settings = {
      immediate: true,
      linger: 0,
      sendTimeout: CONNECT_MS,
      receiveTimeout: -1,
      maxMessageSize: LIMITS.frame_bytes + 65_536,
      reconnectInterval: 50,
    };
    const curve = connection.serverKey !== null && endpoint.startsWith("tcp:")
      ? {
          curveServerKey: connection.serverKey,
          curvePublicKey: connection.publicKey ?? undefined,
          curveSecretKey: connection.secretKey ?? undefined,
        }
      : {};
    if (endpoint.startsWith("tcp:") && (connection.serverKey === null || connection.publicKey === null || connection.secretKey === null)) {
      throw new SegueError("E_UNREACHABLE", `${connection.file} has no whole set of keys for ${endpoint}.`, {
        field: "connection", value: connection.file,
        allowed: "curve_public_key, client_public_key and client_secret_key",
      });
    }
    this.dealer = kind === "dealer";
    this.socket = kind === "dealer"
      ? new zmq.Dealer({ ...settings, ...curve })
      : new zmq.Request({ ...settings, ...curve });
    this.socket.connect(endpoint);
    /** @type {Promise<Uint8Array[]> | null} a receive under way: a message must not be lost to a time-out */
    this.pending = null;
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    this.pending?.catch(() => {});
    this.socket.close();
  }

  /**
   * @param {Uint8Array[]} frames
   * @param {AbortSignal} [signal]
   * @returns {Promise<boolean>} false when nobody is there to take it
   */
  async send(frames, signal) {
    if (signal?.aborted) throw abortReason(signal);
    const abort = () => this.close();
    signal?.addEventListener("abort", abort, { once: true });
    const by = Date.now() + CONNECT_MS;
    try {
      for (;;) {
        try {
          await this.socket.send(/** @type {any} */ (this.dealer ? ["", ...frames] : frames));
          return true;
        } catch (error) {
          if (signal?.aborted) throw abortReason(signal);
          if (this.closed) return false;
          if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EAGAIN") throw error;
        }
        // it may say EAGAIN before its time-out: asked again until the time is really over
        if (Date.now() >= by) return false;
        await sleep(5, signal);
      }
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * The next message without its empty frame.
   * @param {number} ms
   * @param {{signal?: AbortSignal, lost?: () => boolean}} [more] lost: asked every 100 ms whether waiting is in vain
   * @returns {Promise<Uint8Array[] | null>} null when none comes in time; the link stays as it was
   */
  async receive(ms, { signal, lost } = {}) {
    const end = Date.now() + ms;
    for (;;) {
      const got = await this.#receive(end - Date.now(), signal, lost);
      if (got !== "again") return got;
      if (Date.now() >= end) return null;
      await sleep(5, signal);
    }
  }

  /** @param {number} ms @param {AbortSignal} [signal] @param {() => boolean} [lost] @returns {Promise<Uint8Array[] | null | "again">} */
  async #receive(ms, signal, lost) {
    if (signal?.aborted) throw abortReason(signal);
    if (this.closed) return null;
    this.pending ??= /** @type {any} */ (this.socket).receive();
    const pending = /** @type {Promise<Uint8Array[]>} */ (this.pending);
    const outcome = await new Promise((resolve) => {
      const by = Date.now() + ms;
      const done = (/** @type {any} */ value) => {
        clearInterval(watch);
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        resolve(value);
      };
      const abort = () => done("aborted");
      const watch = setInterval(() => lost?.() && done("none"), 100);
      const timer = setTimeout(() => done("none"), Math.max(0, by - Date.now()));
      signal?.addEventListener("abort", abort, { once: true });
      pending.then(
        (frames) => done({ frames }),
        (error) => done(this.closed ? "none" : { error }),
      );
    });
    if (outcome === "none") return null;
    if (outcome === "aborted") throw abortReason(/** @type {AbortSignal} */ (signal));
    this.pending = null;
    if (outcome.error !== undefined) {
      if (outcome.error.code === "EAGAIN") return "again"; // it was woken for nothing
      throw outcome.error;
    }
    return this.dealer ? outcome.frames.slice(1) : outcome.frames;
  }
}
