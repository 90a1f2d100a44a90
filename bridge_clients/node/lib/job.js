// A job that is under way: its events as they come, by asking or by being pushed to, and what it left.
import { randomBytes } from "node:crypto";
import { Assembly } from "./assembly.js";
import { toSamples } from "./audio.js";
import { Channel, readAnswer, waitBefore } from "./channel.js";
import { replaced } from "./connection.js";
import { crc32 } from "./crc32.js";
import { SegueError } from "./errors.js";
import { sleep } from "./link.js";
import { LIMITS, decodeMessage, encodeRequest } from "./wire.js";
import { readWav } from "./wav.js";

const ENDED = new Set(["done", "failed", "cancelled"]);
const SILENT_MS = 6000; // a tick comes at least every 2 s, in every state
const BROKEN_AUDIO = 3;

/** 16 random bytes that name a job for ever: save them with the project before submitting. */
export function newKey() {
  return Uint8Array.from(randomBytes(16));
}

/** Handle to a job, made by `submit`, `retake` or `client.job(id)`. */
export class Job {
  /** @param {import("./client.js").Segue} client @param {string} id @param {any} [reply] @param {Uint8Array} [key] */
  constructor(client, id, reply = {}, key = undefined) {
    this.client = client;
    this.id = id;
    this.key = key;
    this.state = reply.state;
    this.position = reply.position;
    this.seed = reply.seed;
    this.again = reply.again ?? false;
    this.reply = reply;
  }

  /**
   * Events in order, each once, audio with its samples as a Float32Array; between them ticks
   * (`event` is "tick"). Ends after the job's last event. Goes on after a daemon's death.
   * @param {{after?: number, wait_ms?: number, max_bytes?: number, ticks?: boolean, signal?: AbortSignal, patience_ms?: number}} [options]
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *events({ after = 0, wait_ms = 1000, max_bytes = 1 << 20, ticks = true, signal, patience_ms } = {}) {
    const channel = new Channel(this.client.reaching);
    let broken = 0;
    try {
      for (;;) {
        const { reply, payloads } = await channel.ask("next", { job: this.id, after, max_bytes, wait_ms }, payloadsNone, { signal, patience_ms });
        this.state = reply.state;
        let whole = true;
        for (const event of reply.events ?? []) {
          if (event.seq <= after) continue;
          if (event.seq !== after + 1) throw new SegueError("E_HEADER", `Event ${after + 1} of job ${this.id} is missing.`);
          const taken = takeAudio(event, payloads[event.payload]);
          if (taken === null) {
            whole = false;
            break;
          }
          after = event.seq;
          broken = 0;
          yield taken;
          if (ENDED.has(event.event)) return;
        }
        if (!whole && ++broken >= BROKEN_AUDIO) throw damaged(this.id);
        if (ticks && reply.tick != null) yield { event: "tick", job: this.id, ...reply.tick };
        if (ENDED.has(reply.state) && after >= (reply.last ?? 0)) return;
      }
    } finally {
      channel.close();
    }
  }

  /**
   * The same, pushed by the daemon as it happens, never more than `credit` bytes ahead of whoever reads.
   * @param {{after?: number, credit?: number, ticks?: boolean, signal?: AbortSignal, patience_ms?: number}} [options]
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *stream({ after = 0, credit = LIMITS.frame_bytes, ticks = true, signal, patience_ms = this.client.reaching.patience_ms } = {}) {
    if (!(credit >= LIMITS.frame_bytes && credit <= LIMITS.credit_bytes)) {
      throw new SegueError("E_ARGUMENT", `credit must be ${LIMITS.frame_bytes} to ${LIMITS.credit_bytes} bytes.`, {
        field: "credit", value: credit, allowed: `${LIMITS.frame_bytes} to ${LIMITS.credit_bytes}`,
      });
    }
    const { reaching } = this.client;
    let broken = 0;
    let heard = Date.now();
    for (;;) {
      const link = await reaching.reach(Date.now() + patience_ms, signal, "dealer");
      let id = 0;
      const send = (/** @type {string} */ op, /** @type {any} */ fields) =>
        link.send(encodeRequest(op, ++id, { job: this.id, ...fields }, [], link.connection.token), signal);
      try {
        let attached = await send("attach", { after, credit });
        while (attached) {
          const frames = await link.receive(SILENT_MS, { signal, lost: () => replaced(link.connection) });
          if (frames === null) break;
          const { header, payloads } = decodeMessage(frames);
          if (header.ok !== undefined) {
            const answer = header.ok ? readAnswer(header.op, header.id, { header, payloads }) : SegueError.fromWire(header.error);
            if (answer instanceof SegueError) {
              const wait_ms = waitBefore(answer);
              if (wait_ms === null || Date.now() - heard > patience_ms) throw answer;
              await sleep(wait_ms, signal);
              break;
            }
            if (header.op === "attach") {
              this.state = answer.reply.state;
              if (ENDED.has(this.state) && after >= answer.reply.last) return;
            }
            continue;
          }
          if (header.job !== this.id) continue;
          heard = Date.now();
          if (header.op === "tick") {
            this.state = header.state ?? this.state;
            if (ticks) yield { ...header, event: "tick" };
            continue;
          }
          if (header.op !== "event" || header.seq <= after) continue;
          if (header.seq !== after + 1) break; // something was lost on the way: attach again from what is here
          const taken = takeAudio(header, payloads[header.payload]);
          if (taken === null) {
            if (++broken >= BROKEN_AUDIO) throw damaged(this.id);
            break;
          }
          after = header.seq;
          broken = 0;
          yield taken;
          if (ENDED.has(header.event)) return;
          // only now has the reader taken it: a slow one holds the daemon back, not this process's memory
          if (payloads.length > 0) attached = await send("credit", { bytes: payloads[0].length, after });
        }
      } finally {
        link.close();
      }
      reaching.say("The daemon has fallen silent; going on from event " + after + ".");
      await sleep(50, signal);
    }
  }

  /**
   * Wait for the end and put the audio together.
   * @param {{after?: number, onEvent?: (event: any) => void, signal?: AbortSignal, push?: boolean}} [options]
   * @returns {Promise<{state: string, manifest: any, takes: import("./assembly.js").Assembly}>}
   * @throws {SegueError} that of the job, when it failed
   */
  async finished({ onEvent, signal, push = false } = {}) {
    const takes = new Assembly();
    let manifest = null;
    for await (const event of push ? this.stream({ signal }) : this.events({ signal })) {
      takes.add(event);
      onEvent?.(event);
      if (event.event === "failed") throw SegueError.fromWire(event.error);
      if (event.event === "done") manifest = event.manifest ?? {};
    }
    return { state: this.state = manifest === null ? "cancelled" : "done", manifest, takes };
  }

  /** Stop at the next step; what was made stays. @param {import("./channel.js").AskOptions} [options] */
  async cancel(options) {
    const { reply } = await this.client.channel.ask("cancel", { job: this.id }, [], options);
    this.state = reply.state;
    return reply;
  }

  /**
   * The same again with another seed, and with other values for what `change` names.
   * @param {{seed?: number, variations?: number, change?: Record<string, any>, key?: Uint8Array} & import("./channel.js").AskOptions} [options]
   */
  async retake({ seed, variations, change, key = newKey(), ...options } = {}) {
    const { reply } = await this.client.channel.ask("retake", { job: this.id, key, seed, variations, change }, [], options);
    return new Job(this.client, reply.job, reply, key);
  }

  /** All about it. @param {import("./channel.js").AskOptions} [options] */
  async status(options) {
    const { reply } = await this.client.channel.ask("status", { job: this.id }, [], options);
    this.state = reply.info.state;
    return reply.info;
  }

  /** What is wanted has been saved. @param {import("./channel.js").AskOptions} [options] */
  async forget(options) {
    return (await this.client.channel.ask("forget", { job: this.id }, [], options)).reply;
  }

  /**
   * The path of a finished file on this machine.
   * @param {{variation?: number, stem?: string, part?: "take" | "handle" | "tail"} & import("./channel.js").AskOptions} [options]
   */
  async fetch({ variation = 0, stem = "mix", part = "take", ...options } = {}) {
    return (await this.client.channel.ask("fetch", { job: this.id, variation, stem, part, as: "path" }, [], options)).reply;
  }

  /**
   * A finished file's bytes, from anywhere, piece by piece, each piece and the whole held against its CRC.
   * @param {{variation?: number, stem?: string, part?: "take" | "handle" | "tail", max_bytes?: number} & import("./channel.js").AskOptions} [options]
   * @returns {Promise<any>} the reply, with `bytes`
   */
  async fetchBytes({ variation = 0, stem = "mix", part = "take", max_bytes = 1 << 20, ...options } = {}) {
    let whole = new Uint8Array(0);
    let offset = 0;
    let broken = 0;
    for (;;) {
      const fields = { job: this.id, variation, stem, part, as: "bytes", offset, max_bytes };
      const { reply, payloads } = await this.client.channel.ask("fetch", fields, [], options);
      const piece = payloads[0];
      if (piece === undefined || piece.length === 0 || crc32(piece) !== reply.data?.crc) {
        if (++broken >= BROKEN_AUDIO) throw damaged(this.id);
        continue;
      }
      if (offset === 0) whole = new Uint8Array(reply.total_bytes);
      whole.set(piece, offset);
      offset += piece.length;
      if (offset < reply.total_bytes) continue;
      if (crc32(whole) !== reply.crc) throw damaged(this.id);
      return { ...reply, offset: 0, bytes: whole };
    }
  }

  /**
   * A finished take as samples.
   * @param {{variation?: number, stem?: string, part?: "take" | "handle" | "tail"} & import("./channel.js").AskOptions} [options]
   * @returns {Promise<{samples: Float32Array, rate: number, channels: number, frames: number, position: number}>}
   */
  async take(options) {
    const { bytes, position } = await this.fetchBytes(options);
    return { ...readWav(bytes), position: position ?? 0 };
  }
}

/** @type {Uint8Array[]} */
const payloadsNone = [];

/** @param {string} job */
function damaged(job) {
  return new SegueError("E_TAKE_DAMAGED", `The audio of job ${job} does not fit its checksum, again and again.`, { job });
}

/** An event with its samples; null when they were damaged on the way. @param {any} event @param {Uint8Array | undefined} payload */
function takeAudio(event, payload) {
  if (event.event !== "audio" || payload === undefined) return event;
  return crc32(payload) === event.crc ? { ...event, samples: toSamples(payload) } : null;
}
