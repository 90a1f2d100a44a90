// Over the network: a key file, CURVE, the same samples; whoever has no key hears nothing.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { after, before, describe, test } from "node:test";
import { Assembly, Segue, readKeyFile } from "../index.js";
import { House, tone, wrongSamples } from "./house.js";

const RATE = 32_000;
const plain = { level: "off", seed: 7, rate: RATE, channels: 1 };

function freePort() {
  return new Promise((resolve) => {
    const probe = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

describe("a daemon that is reached by a key file", () => {
  let house, endpoint, file;
  const keys = (...words) => {
    const [python] = house.command();
    const done = spawnSync(python, ["-P", "-m", "bridge_clients.cli.main", "keys", ...words], {
      env: house.environment(), cwd: house.folder, encoding: "utf8",
    });
    assert.equal(done.status, 0, done.stderr);
  };
  before(async () => {
    endpoint = `tcp://127.0.0.1:${await freePort()}`;
    house = new House({ settings: [`tcp.bind=${endpoint}`] });
    file = path.join(house.folder, "laptop.key");
    keys("new", "laptop", "--endpoint", endpoint, "--out", file);
    await house.start();
  });
  after(() => house?.close());

  test("hello, a job, its samples; a path means nothing there, bytes do", async () => {
    const segue = await Segue.connect({ keyFile: file });
    for (const push of [false, true]) {
      const job = await segue.continue({ prompt: tone(), length: { seconds: 2 }, ...plain });
      const { takes } = await job.finished({ push });
      assert.equal(wrongSamples(takes.get(), 7), 0);
      await assert.rejects(job.fetch(), { code: "E_ARGUMENT" });
      assert.equal(wrongSamples(await job.take(), 7), 0);
    }
    segue.close();
  });

  test("SEGUE_CONNECTION names the file, and no daemon is ever started for it", async () => {
    process.env.SEGUE_CONNECTION = file;
    try {
      const segue = new Segue({ command: [process.execPath, "-e", "require('fs').writeFileSync('/dev/full', 'x')"] });
      assert.equal((await segue.ping()).ready, true);
      assert.equal(segue.reaching.start, false);
      segue.close();
    } finally {
      delete process.env.SEGUE_CONNECTION;
    }
  });

  test("another daemon's key, a key not on the list, half a set, an open file: refused", async () => {
    const map = JSON.parse(fs.readFileSync(file, "utf8"));
    const other = JSON.parse(fs.readFileSync(file, "utf8"));
    keys("new", "desk", "--endpoint", endpoint, "--out", path.join(house.folder, "desk.key"));
    const desk = JSON.parse(fs.readFileSync(path.join(house.folder, "desk.key"), "utf8"));
    keys("revoke", "desk");
    const wrong = {
      revoked: desk,
      server: { ...other, curve_public_key: desk.client_public_key },
      token: { ...map, token: desk.token },
      half: { ...map, client_secret_key: null },
    };
    for (const [name, content] of Object.entries(wrong)) {
      const bad = path.join(house.folder, `${name}.key`);
      fs.writeFileSync(bad, JSON.stringify(content), { mode: 0o600 });
      const begun = Date.now();
      await assert.rejects(Segue.connect({ keyFile: bad }), { code: "E_UNREACHABLE", field: "connection" }, name);
      assert.ok(Date.now() - begun < 12_000, name);
    }
    const open = path.join(house.folder, "open.key");
    fs.writeFileSync(open, JSON.stringify(map), { mode: 0o644 });
    assert.throws(() => readKeyFile(open), { code: "E_UNREACHABLE" });
  });

  test("the daemon dies and comes back: the same key goes on", async () => {
    const segue = await Segue.connect({ keyFile: file });
    const job = await segue.generate({ text: "slow=10 resumable", length: { seconds: 3 }, ...plain });
    const takes = new Assembly();
    let killed = false;
    for await (const event of job.stream()) {
      takes.add(event);
      if (event.event === "audio" && !killed) {
        killed = true;
        await house.kill();
        setTimeout(() => house.start(), 300);
      }
    }
    assert.ok(killed);
    assert.equal(takes.get().frames, 3 * RATE);
    assert.equal(wrongSamples(takes.get(), 7), 0);
    segue.close();
  });
});
