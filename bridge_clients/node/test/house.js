// A daemon of its own for a test, with the coded model, ended whatever the test did.
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const PYTHON = process.env.SEGUE_TEST_PYTHON ?? "python3";

export class House {
  constructor({ model = "coded", settings = [] } = {}) {
    this.folder = fs.mkdtempSync("/tmp/segue-n-"); // short: socket paths are bounded
    this.runtime = path.join(this.folder, "run");
    this.settings = [`worker.default_model=${model}`, "worker.keep_alive_s=-1", ...settings];
    this.process = null;
    this.connection = null;
  }

  environment() {
    return {
      ...process.env,
      SEGUE_RUNTIME: this.runtime,
      SEGUE_STATE: path.join(this.folder, "state"),
      SEGUE_CONFIG: "",
      SEGUE_TEST_COUNTER: path.join(this.folder, "crashes"),
      SEGUE_TEST_ENGINE: "tests.daemon.engine:make",
      PYTHONPATH: ROOT,
      OMP_NUM_THREADS: "1",
    };
  }

  command() {
    return [PYTHON, "-P", "-m", "daemon", "serve", "--foreground", ...this.settings.flatMap((one) => ["--set", one])];
  }

  async start() {
    const errors = fs.openSync(path.join(this.folder, "stderr"), "a");
    const [program, ...words] = this.command();
    this.process = spawn(program, words, { env: this.environment(), stdio: ["ignore", errors, errors], cwd: this.folder });
    fs.closeSync(errors);
    const by = Date.now() + 20_000;
    while (Date.now() < by) {
      if (this.process.exitCode !== null) throw new Error(fs.readFileSync(path.join(this.folder, "stderr"), "utf8"));
      try {
        const found = JSON.parse(fs.readFileSync(path.join(this.runtime, "connection.json"), "utf8"));
        if (found.pid === this.process.pid) {
          this.connection = found;
          return this;
        }
      } catch {
        // not there yet
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error("the daemon did not start");
  }

  /** SIGKILL, as a power cut would feel to it. */
  async kill() {
    const child = this.process;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  /** End every process of this house: ours, those that clients have started, also one that is only starting. */
  async close() {
    for (let left = this.#processes(); left.length > 0; left = this.#processes()) {
      left.forEach(end);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  /** Whoever has this house's folder, which nobody else knows, in the environment. */
  #processes() {
    return fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid).map(Number).filter((pid) => {
      try {
        return fs.readFileSync(`/proc/${pid}/environ`, "latin1").includes(`SEGUE_RUNTIME=${this.runtime}\0`);
      } catch {
        return false; // it has ended, or is another user's
      }
    });
  }
}

function end(pid) {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it has ended already
  }
}

const SPAN = 8191;

/** What the coded model makes at one position: the formula of tests/daemon/engine.py. */
export function coded(seed, variation, stem, position) {
  const sum = [...Buffer.from(stem)].reduce((total, byte) => total + byte, 0);
  const key = seed * 7919 + variation * 104_729 + sum * 31;
  const mixed = Math.imul((position + key) | 0, 2654435761 | 0) >>> 0;
  return (((mixed >>> 11) % SPAN) - (SPAN >> 1)) / 16384;
}

/** How many samples from `position` on (one channel counted) are not what the coded model makes. */
export function wrongSamples(track, seed, variation = 0, stem = "mix") {
  let wrong = 0;
  for (let frame = 0; frame < track.frames; frame++) {
    const right = coded(seed, variation, stem, track.position + frame);
    for (let channel = 0; channel < track.channels; channel++) {
      if (track.samples[frame * track.channels + channel] !== right) wrong++;
    }
  }
  return wrong;
}

export function tone(seconds = 1, rate = 32_000, channels = 1) {
  const samples = new Float32Array(seconds * rate * channels);
  for (let at = 0; at < samples.length; at++) samples[at] = 0.25 * Math.sin((2 * Math.PI * 220 * Math.floor(at / channels)) / rate);
  return { samples, rate, channels };
}
