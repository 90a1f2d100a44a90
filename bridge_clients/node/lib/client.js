// The client: one object that a program keeps, whatever becomes of the daemon.
import { EventEmitter } from "node:events";
import { describe } from "./audio.js";
import { Channel } from "./channel.js";
import { Job, newKey } from "./job.js";
import { Reaching } from "./reaching.js";

/**
 * Emits "waiting" (a sentence: what is being waited for), "hello" (the daemon's introduction, at first and
 * whenever another daemon has taken its place) and "notice" (what happened that the user has to know; where
 * the daemon crashed over a job twice it starts nothing before `resume`).
 */
export class Segue extends EventEmitter {
  /**
   * Nothing is done before the first question. Throws nothing.
   * @param {{folder?: string, keyFile?: string, start?: boolean, command?: string[], name?: string,
   *          version?: string, patience_ms?: number, session?: Uint8Array, project?: string}} [options]
   */
  constructor(options = {}) {
    super();
    this.reaching = new Reaching({
      ...options,
      onWait: (why) => this.emit("waiting", why),
      onHello: (hello) => {
        this.emit("hello", hello);
        if (hello.notice != null) this.emit("notice", hello.notice);
      },
    });
    this.channel = new Channel(this.reaching);
    this.session = options.session;
    this.project = options.project;
  }

  /**
   * Reach the daemon now, starting one if need be and allowed.
   * @param {ConstructorParameters<typeof Segue>[0] & {signal?: AbortSignal}} [options]
   */
  static async connect({ signal, ...options } = {}) {
    const client = new Segue(options);
    await client.ping({ signal });
    return client;
  }

  /** What the daemon last said of itself; null before the first answer. */
  get hello() {
    return this.reaching.hello;
  }

  /** Close the sockets. Jobs go on; only `cancel` ends them. */
  close() {
    this.channel.close();
  }

  /**
   * Any operation of the protocol by its name.
   * @param {string} op @param {Record<string, any>} [fields] @param {Uint8Array[]} [payloads]
   * @param {import("./channel.js").AskOptions} [options]
   */
  ask(op, fields, payloads, options) {
    return this.channel.ask(op, fields, payloads, options);
  }

  /** @param {string} op @param {any} fields @param {import("./channel.js").AskOptions} [options] */
  async #reply(op, fields, options) {
    return (await this.channel.ask(op, fields, [], options)).reply;
  }

  /** @param {import("./channel.js").AskOptions} [options] */
  ping(options) {
    return this.#reply("ping", {}, options);
  }

  /** @param {import("./channel.js").AskOptions} [options] */
  models(options) {
    return this.#reply("models", {}, options);
  }

  /** @param {string} model @param {any} [fields] @param {import("./channel.js").AskOptions} [options] */
  load(model, fields = {}, options = undefined) {
    return this.#reply("load", { model, ...fields }, options);
  }

  /** @param {string} model @param {any} [fields] @param {import("./channel.js").AskOptions} [options] */
  unload(model, fields = {}, options = undefined) {
    return this.#reply("unload", { model, ...fields }, options);
  }

  /** @param {any} [fields] @param {import("./channel.js").AskOptions} [options] */
  pause(fields = {}, options = undefined) {
    return this.#reply("pause", fields, options);
  }

  /** @param {import("./channel.js").AskOptions} [options] */
  resume(options) {
    return this.#reply("resume", {}, options);
  }

  /** @param {any} [fields] @param {import("./channel.js").AskOptions} [options] */
  drain(fields = {}, options = undefined) {
    return this.#reply("drain", fields, options);
  }

  /** The counters as Prometheus text. @param {import("./channel.js").AskOptions} [options] */
  async metrics(options) {
    const { payloads } = await this.channel.ask("metrics", {}, [], options);
    return Buffer.from(payloads[0] ?? []).toString("utf8");
  }

  /**
   * One page of jobs, newest first; `next` of the reply goes on as `before`.
   * @param {any} [fields] @param {import("./channel.js").AskOptions} [options]
   */
  list(fields = {}, options = undefined) {
    return this.#reply("list", fields, options);
  }

  /** All jobs that fit, newest first. @param {any} [fields] @param {import("./channel.js").AskOptions} [options] @returns {AsyncGenerator<any, void, void>} */
  async *jobs(fields = {}, options = undefined) {
    let before = fields.before;
    do {
      const page = await this.list({ ...fields, before }, options);
      yield* page.jobs ?? [];
      before = page.next;
    } while (before != null);
  }

  /**
   * Hand a job in: the fields of `submit` under their own names; `audio` with samples as Float32Array.
   * Without `key` one is made; a program that may crash makes it itself (`newKey`) and saves it first.
   * @param {any} request @param {import("./channel.js").AskOptions} [options]
   * @returns {Promise<Job>}
   */
  async submit(request, options) {
    const { audio = [], key = newKey(), ...fields } = request;
    if (this.hello === null) await this.ping(options); // the running daemon's limits decide how audio is cut
    const { descriptions, payloads } = describe(audio, this.reaching.limits.frame_bytes);
    const header = {
      session: this.session,
      project: this.project,
      ...fields,
      key,
      audio: descriptions.length > 0 ? descriptions : undefined,
    };
    const { reply } = await this.channel.ask("submit", header, payloads, options);
    return new Job(this, reply.job, reply, key);
  }

  /**
   * Go on from `prompt`: {samples, rate, channels}.
   * @param {any} request @param {import("./channel.js").AskOptions} [options]
   */
  continue(request, options = undefined) {
    return this.#made("continue", request, options);
  }

  /** From nothing, or from a text. @param {any} request @param {import("./channel.js").AskOptions} [options] */
  generate(request, options = undefined) {
    return this.#made("generate", request, options);
  }

  /**
   * What is missing beside `context`, a list of tracks: {samples, rate, channels, stem?, position?}.
   * @param {any} request @param {import("./channel.js").AskOptions} [options]
   */
  accompany(request, options = undefined) {
    return this.#made("accompany", request, options);
  }

  /** `source` again, otherwise; `strength` says how far. @param {any} request @param {import("./channel.js").AskOptions} [options] */
  vary(request, options = undefined) {
    return this.#made("vary", request, options);
  }

  /** What lies between `prompt` and `following`. @param {any} request @param {import("./channel.js").AskOptions} [options] */
  fill(request, options = undefined) {
    return this.#made("fill", request, options);
  }

  /** @param {string} mode @param {any} request @param {import("./channel.js").AskOptions} [options] */
  #made(mode, { prompt, source, following, context = [], audio = [], ...request }, options) {
    const sounds = [
      ...(prompt === undefined ? [] : [{ ...prompt, role: "prompt" }]),
      ...(source === undefined ? [] : [{ ...source, role: "source" }]),
      ...context.map((/** @type {any} */ one, /** @type {number} */ track) => ({ track, ...one, role: "context" })),
      ...(following === undefined ? [] : [{ ...following, role: "following" }]),
      ...audio,
    ];
    return this.submit({ mode, ...request, audio: sounds }, options);
  }

  /** A job by its id, for instance one found by `list`. @param {string} id */
  job(id) {
    return new Job(this, id);
  }
}
