// "Retrying" of SPEC.md, against a daemon of the test's own making that refuses, forgets and mumbles.
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { Encoder, decode } from "@msgpack/msgpack";
import * as zmq from "zeromq";
import { Segue, SegueError } from "../index.js";

const TOKEN = "ab".repeat(32);
const preamble = Buffer.concat([Buffer.from("SGU\x01", "latin1"), Buffer.alloc(32)]);

/** Answers hello by itself, everything else by `answer(header, number)`: a map, null for silence, or raw frames. */
class Pretender {
  constructor(answer) {
    this.answer = answer;
    this.folder = fs.mkdtempSync("/tmp/segue-n-");
    this.asked = [];
    this.peers = new Set();
    this.router = new zmq.Router({ linger: 0 });
  }

  async start() {
    const endpoint = `ipc://${path.join(this.folder, "segue.sock")}`;
    await this.router.bind(endpoint);
    const file = path.join(this.folder, "connection.json");
    fs.writeFileSync(file, JSON.stringify({ endpoints: [endpoint], token: TOKEN, pid: process.pid }), { mode: 0o600 });
    this.serving = this.#serve().catch(() => {});
    return this;
  }

  async #serve() {
    for await (const [peer, empty, first, packed, ...payloads] of this.router) {
      const header = decode(packed);
      const reply = (map) => this.router.send([peer, empty, preamble, new Encoder().encode({ op: header.op, id: header.id, ...map })]);
      if (header.op === "hello") {
        await reply({ ok: true, daemon: "pretender", protocol: [1, 0], boot: "1", ready: true });
        continue;
      }
      if (header.op === "ping") {
        await reply({ ok: true, boot: "1" });
        continue;
      }
      this.asked.push({ header, first, packed, payloads, peer: peer.toString("hex") });
      const said = this.answer(header, this.asked.length);
      if (Array.isArray(said)) await this.router.send([peer, empty, ...said]);
      else if (said !== null) await reply(said);
    }
  }

  close() {
    this.router.close();
    fs.rmSync(this.folder, { recursive: true, force: true });
  }
}

async function asking(answer, options, work) {
  const daemon = await new Pretender(answer).start();
  const segue = new Segue({ folder: daemon.folder, start: false, ...options });
  try {
    await work(segue, daemon);
  } finally {
    segue.close();
    daemon.close();
  }
}
const refusal = (code, retry, more = {}) => ({ ok: false, error: { code, message: `${code} it is.`, retry, ...more } });

for (const [retry, least_ms, most_ms] of [["same", 0, 900], ["after", 150, 1500], ["reconnect", 200, 2500]]) {
  test(`retry "${retry}": the same is sent again, key and audio included`, async () => {
    const more = retry === "after" ? { retry_ms: 150 } : {};
    await asking(
      (_, number) => (number < 3 ? refusal("E_SOMETHING_NEW", retry, more) : { ok: true, job: "1", state: "queued", seed: 4 }),
      {},
      async (segue, { asked }) => {
        await segue.ping();
        const begun = performance.now();
        const job = await segue.continue({ prompt: { samples: Float32Array.of(0.5, -0.5), rate: 48_000 }, length: { seconds: 1 } });
        const took_ms = performance.now() - begun;
        assert.equal(job.seed, 4);
        assert.equal(asked.length, 3);
        const body = ({ header: { id, ...fields }, payloads }) => [fields, payloads.map((one) => one.toString("hex"))];
        assert.deepEqual(body(asked[1]), body(asked[0]));
        assert.deepEqual(body(asked[2]), body(asked[0]));
        assert.equal(asked[0].first.toString("hex"), Buffer.concat([Buffer.from("SGU\x01"), Buffer.from(TOKEN, "hex")]).toString("hex"));
        assert.ok(took_ms >= 2 * least_ms && took_ms < 2 * most_ms + 1000, `${took_ms} ms`);
        assert.equal(new Set(asked.map((one) => one.peer)).size, retry === "reconnect" ? 3 : 1, "sockets");
      },
    );
  });
}

for (const retry of ["never", "new_key"]) {
  test(`retry "${retry}": the error comes at once, whole`, async () => {
    const error = { field: "seed", value: 7, allowed: "less", detail: "d", job: "9" };
    await asking(() => refusal("E_KEY_REUSE", retry, error), {}, async (segue, { asked }) => {
      await assert.rejects(segue.list(), (caught) => {
        assert.ok(caught instanceof SegueError);
        for (const [key, value] of Object.entries({ ...error, code: "E_KEY_REUSE", retry, message: "E_KEY_REUSE it is." })) assert.equal(caught[key], value);
        return true;
      });
      assert.equal(asked.length, 1);
    });
  });
}

test("patience ends: the last refusal is told, not a time-out", async () => {
  await asking(() => refusal("E_QUEUE_FULL", "after", { retry_ms: 100 }), { patience_ms: 450 }, async (segue, { asked }) => {
    await assert.rejects(segue.list(), { code: "E_QUEUE_FULL" });
    assert.ok(asked.length >= 2 && asked.length <= 6, `${asked.length}`);
  });
});

test("an answer that stays away: a fresh socket, the same question", async () => {
  await asking((_, number) => (number === 1 ? null : { ok: true, jobs: [] }), {}, async (segue, { asked }) => {
    const begun = performance.now();
    assert.deepEqual((await segue.list()).jobs, []);
    const took_ms = performance.now() - begun;
    assert.ok(took_ms > 2500 && took_ms < 8000, `${took_ms} ms`);
    assert.equal(asked.length, 2);
    assert.notEqual(asked[0].peer, asked[1].peer);
  });
});

test("an answer to another question, or none that can be read, is never taken for this one", async () => {
  const wrong = [
    { ok: true, jobs: [], id: 999 },
    { ok: true, jobs: [], op: "ping" },
    [preamble, Buffer.from([0xc1])],
    [Buffer.from("nonsense"), Buffer.from([0x80])],
    [preamble, Buffer.from(new Encoder().encode({ op: "list", id: 1, ok: true })), Buffer.from("more")],
  ];
  for (const one of wrong) {
    await asking((_, number) => (number === 1 ? one : { ok: true, jobs: [] }), {}, async (segue) => {
      await assert.rejects(segue.list(), { code: "E_HEADER" });
      assert.deepEqual((await segue.list()).jobs, [], "and the next question is answered");
    });
  }
});

test("questions wait for their turn on the one socket, in order", async () => {
  await asking((header) => ({ ok: true, job: header.job, state: "done" }), {}, async (segue, { asked }) => {
    const names = Array.from({ length: 20 }, (_, at) => `j${at}`);
    const replies = await Promise.all(names.map((name) => segue.job(name).cancel()));
    assert.deepEqual(replies.map((reply) => reply.job), names);
    assert.deepEqual(asked.map((one) => one.header.job), names);
  });
});

test("a closed client says so; whoever waits in line is told too", async () => {
  await asking(() => null, {}, async (segue) => {
    const waiting = [segue.list(), segue.list()].map((one) => one.catch((error) => error));
    setTimeout(() => segue.close(), 100);
    for (const error of await Promise.all(waiting)) assert.equal(error.code, "E_UNREACHABLE");
  });
});

test("an abort frees the line at once", async () => {
  await asking((_, number) => (number === 1 ? null : { ok: true, jobs: [] }), {}, async (segue) => {
    const stop = new AbortController();
    const first = segue.list({}, { signal: stop.signal });
    const second = segue.list();
    const begun = performance.now();
    setTimeout(() => stop.abort(), 100);
    await assert.rejects(first, { name: "AbortError" });
    assert.deepEqual((await second).jobs, []);
    assert.ok(performance.now() - begun < 1500);
  });
});
