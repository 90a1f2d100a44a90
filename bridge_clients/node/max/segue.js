// For Max: [node.script segue.js]. Messages in: continue, accompany, vary, fill, generate, retake, cancel, status,
// takes. Out: accepted, progress, take, done, error, status, waiting, notice, each job's id first.
// CommonJS, because older node.script objects load nothing else; the client itself is imported.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs/promises");
const os = require("node:os");
const path = require("node:path");
const { PATHS, WordError, parse } = require("./words.js");

const PROMPT_S = 60;
const FILE_BYTES = 512 * 1024 * 1024;
const SEED_LIMIT = 2 ** 24; // what Max's floats hold exactly, so that a drawn seed can be typed again

let Max;
try {
  Max = require("max-api");
} catch (error) {
  if (error.code !== "MODULE_NOT_FOUND") throw error;
  console.error("segue.js runs inside Max, in a [node.script segue.js] object: max-api is not here.");
  process.exit(1);
}

/** @type {Map<string, {tag: string | number, job: any, cancelled: boolean}>} */
const jobs = new Map();
let counter = 0;
let folder = path.join(os.homedir(), "segue-takes");
let connecting = null;

const out = (...words) => Max.outlet(...words.map((word) => word ?? "")).catch(() => {});

/** The one client, made at the first message. */
function client() {
  connecting ??= import("../index.js").then((library) => {
    const segue = new library.Segue({ name: "segue-max" });
    segue.on("waiting", (why) => out("waiting", why));
    segue.on("notice", (why) => out("notice", why));
    return { library, segue };
  });
  return connecting;
}

async function sound({ path: file, role, stem, from, to }, index) {
  const { library } = await client();
  let bytes;
  try {
    const info = await fs.stat(file);
    if (!info.isFile()) throw new WordError("path", file, "an audio file", `${path.basename(file)} is not a file.`);
    if (info.size > FILE_BYTES) throw new WordError("path", file, "at most 512 MB", `${path.basename(file)} is too long: export the part that matters.`);
    bytes = await fs.readFile(file);
  } catch (error) {
    if (error instanceof WordError) throw error;
    throw new WordError("path", file, "a WAV file that can be read", `${path.basename(file)} cannot be read (${error.code}).`);
  }
  const { samples, rate, channels, frames } = library.readWav(bytes);
  const end = to === undefined ? frames : Math.round(to * rate);
  let first = from === undefined ? 0 : Math.round(from * rate);
  if (!(first >= 0 && first < end && end <= frames)) {
    throw new WordError("from", from ?? to, `within 0 to ${frames / rate} s, from before to`);
  }
  if (role === "prompt") first = Math.max(first, end - PROMPT_S * rate);
  const part = { samples: samples.slice(first * channels, end * channels), rate, channels, role };
  if (role === "prompt") part.position = first - end;
  return role === "context" ? { ...part, track: index, stem } : part;
}

/** A take under its own name: written beside it, then linked, so that nothing is ever replaced. */
async function save(job, mode, tag, variation, stem) {
  const { bytes, frames, rate } = await job.fetchBytes({ variation, stem });
  await fs.mkdir(folder, { recursive: true });
  const stemmed = `segue-${mode}-${String(tag).replace(/[^\w-]/g, "_")}-v${variation + 1}-${stem}`;
  const part = path.join(folder, `.${crypto.randomBytes(8).toString("hex")}.part`);
  await fs.writeFile(part, bytes, { flag: "wx" });
  try {
    for (let number = 1; ; number++) {
      const file = path.join(folder, `${stemmed}${number > 1 ? `-${number}` : ""}.wav`);
      try {
        await fs.link(part, file);
        return { file, frames, rate };
      } catch (error) {
        if (error.code !== "EEXIST") throw error;
      }
    }
  } finally {
    await fs.unlink(part);
  }
}

function refuse(tag, error) {
  out("error", tag, error.code ?? "E_INTERNAL", error.message, error.field, error.value === undefined ? "" : String(error.value), error.allowed);
}

/** One job from its message to its end. */
async function make(mode, tag, submit) {
  const name = String(tag);
  if (jobs.has(name)) {
    refuse(tag, new WordError("id", tag, "one that no job under way has"));
    return;
  }
  const entry = { tag, job: null, cancelled: false, state: ["starting", 0, 0, -1] };
  jobs.set(name, entry);
  try {
    entry.job = await submit();
    if (entry.cancelled) await entry.job.cancel();
    const { reply } = entry.job;
    out("accepted", tag, entry.job.id, entry.job.seed, reply.frames, reply.rate, reply.lead_frames ?? 0);
    const { state, manifest } = await follow(entry);
    let count = 0;
    for (const take of manifest?.takes ?? []) {
      for (const stem of new Set(take.files.filter((file) => file.part === "take").map((file) => file.stem))) {
        const { file, frames, rate } = await save(entry.job, mode, tag, take.variation, stem).catch((error) => {
          if (error.syscall === undefined) throw error;
          const said = `The take cannot be written to ${folder} (${error.code}); it stays with the daemon as job ${entry.job.id}.`;
          throw Object.assign(new WordError("takes", folder, "a folder that you can write to", said), { code: "E_DISK" });
        });
        out("take", tag, take.variation + 1, stem, file, frames, rate, reply.lead_frames ?? 0, entry.job.seed);
        count++;
      }
    }
    out("done", tag, state, count, entry.job.seed);
  } catch (error) {
    refuse(tag, error);
  } finally {
    jobs.delete(name);
  }
}

async function follow(entry) {
  const { library } = await client();
  for await (const event of entry.job.events({ max_bytes: 0 })) {
    if (event.event === "tick") {
      entry.state = [event.state, event.step ?? 0, event.steps ?? 0, event.eta_ms == null ? -1 : event.eta_ms / 1000];
      out("progress", entry.tag, ...entry.state, event.note);
    }
    if (event.event === "requeued") out("notice", `Job ${entry.tag} goes on after ${event.why}.`);
    if (event.event === "failed") throw library.SegueError.fromWire(event.error);
    if (event.event === "done") return { state: "done", manifest: event.manifest };
  }
  return { state: "cancelled", manifest: null };
}

const handlers = {
  async cancel(id) {
    const chosen = id === undefined ? [...jobs.values()] : [jobs.get(String(id))];
    for (const entry of chosen) {
      if (entry === undefined) {
        refuse(id, Object.assign(new WordError("id", id, [...jobs.keys()].join(", "), "No job with this id is under way."), { code: "E_JOB" }));
        continue;
      }
      entry.cancelled = true;
      await entry.job?.cancel().catch((error) => refuse(entry.tag, error));
    }
  },
  async status(id) {
    const entry = id === undefined ? undefined : jobs.get(String(id));
    if (entry !== undefined) return out("progress", entry.tag, ...entry.state, "");
    try {
      const { segue } = await client();
      const pong = await segue.ping({ patience_ms: 20_000 });
      return out("status", pong.paused ? "paused" : "ready", pong.queued ?? 0, pong.running ?? 0, jobs.size, segue.hello.default_model);
    } catch (error) {
      return out("status", "absent", 0, 0, jobs.size, error.message);
    }
  },
  takes(given) {
    folder = path.resolve(String(given).replace(/^~(?=\/|$)/, os.homedir()));
    out("takes", folder);
  },
  async retake(job, ...words) {
    const tag = ++counter;
    await make("retake", tag, async () => {
      const { segue } = await client();
      const { fields } = parse("vary", ["", ...words]);
      const { seed = crypto.randomInt(SEED_LIMIT), variations } = fields;
      return segue.job(String(job)).retake({ seed, variations });
    });
  },
};
for (const mode of Object.keys(PATHS)) {
  handlers[mode] = async (...words) => {
    let wanted;
    try {
      wanted = parse(mode, words);
    } catch (error) {
      const at = words.indexOf("id");
      refuse(at >= 0 && at + 1 < words.length ? words[at + 1] : "", error);
      return;
    }
    await make(mode, wanted.id ?? ++counter, async () => {
      const { segue } = await client();
      const audio = await Promise.all(wanted.sounds.map(sound));
      return segue.submit({ mode, seed: crypto.randomInt(SEED_LIMIT), ...wanted.fields, audio });
    });
  };
}
Max.addHandlers(handlers);
out("status", "loaded", 0, 0, 0, "");
