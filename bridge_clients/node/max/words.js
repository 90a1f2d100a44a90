// What a Max message asks for: the path, how long, then key and value, as with `segue osc`.
"use strict";

const PATHS = { continue: ["prompt"], generate: [], accompany: ["context"], vary: ["source"], fill: ["prompt", "following"] };
const UNITS = { s: "seconds", sec: "seconds", seconds: "seconds", bar: "bars", bars: "bars", frames: "frames", samples: "frames" };
const TEXTS = ["text", "negative_text", "model", "level", "start", "priority", "project"];
const WHOLE = ["seed", "variations", "rate", "channels", "handle_ms", "tail_ms", "deadline_ms"];
const SAMPLING = ["temperature", "top_k", "top_p"];
const OTHERS = ["seconds", "bars", "frames", "bpm", "meter", "at", "stems", "id", "from", "to", "track", "stem", "strength", "loop", "guidance"];
const KEYS = [...TEXTS, ...WHOLE, ...SAMPLING, ...OTHERS].sort();

/** An argument that is wrong; the caller makes the library's own error of it. */
class WordError extends Error {
  constructor(field, value, allowed, message = `${field} must be ${allowed}, not ${value}.`) {
    super(message);
    Object.assign(this, { code: "E_ARGUMENT", field, value, allowed });
  }
}

/**
 * @param {string} mode
 * @param {(string | number)[]} words
 * @returns {{id: string | number | undefined, fields: Record<string, any>, sounds: {path: string, role: string, stem?: string, from?: number, to?: number}[]}}
 */
function parse(mode, words) {
  const rest = [...words];
  const sounds = PATHS[mode].map((role) => ({ path: text("path", rest.shift()), role }));
  let length = leading(rest);
  if (rest.length % 2 !== 0) throw new WordError("arguments", rest.join(" "), "pairs of key and value after the length");
  const fields = {};
  const tempo = {};
  let id;
  for (let at = 0; at < rest.length; at += 2) {
    const key = String(rest[at]).toLowerCase();
    const value = rest[at + 1];
    if (TEXTS.includes(key)) fields[key] = text(key, value);
    else if (WHOLE.includes(key)) fields[key] = whole(key, value);
    else if (SAMPLING.includes(key)) fields.sampling = { ...fields.sampling, [key]: number(key, value) };
    else if (key === "guidance") fields.guidance = { cfg_coef: number(key, value) };
    else if (key === "strength") fields.strength = number(key, value);
    else if (key === "loop") fields.loop = Boolean(number(key, value));
    else if (key in UNITS) length = counted(UNITS[key], value);
    else if (key === "bpm") tempo.bpm = number(key, value);
    else if (key === "at") tempo.start = number(key, value);
    else if (key === "meter") {
      const found = /^(\d{1,2})\/(\d{1,2})$/.exec(String(value));
      if (found === null) throw new WordError(key, value, "a meter such as 4/4 or 6/8");
      Object.assign(tempo, { beats: Number(found[1]), unit: Number(found[2]) });
    } else if (key === "stems") fields.stems = text(key, value).split(/[,\s]+/).filter(Boolean);
    else if (key === "id") id = typeof value === "number" ? value : String(value).slice(0, 64);
    else if (key === "from" || key === "to") {
      if (sounds.length === 0) throw new WordError(key, value, "given with a file only");
      sounds[0][key] = number(key, value);
    } else if (key === "track") sounds.push({ path: text(key, value), role: "context" });
    else if (key === "stem") {
      const last = sounds.at(-1);
      if (last?.role !== "context") throw new WordError(key, value, "given after the path of a track");
      last.stem = text(key, value);
    } else throw new WordError(key, key, KEYS.join(", "), `${key} is no key that Segue knows.`);
  }
  if (length !== undefined) fields.length = length;
  else if (mode !== "vary") throw new WordError("length", "absent", "a number of seconds, or bars N with bpm N");
  if (Object.keys(tempo).length > 0) {
    if (tempo.bpm === undefined) throw new WordError("bpm", "absent", "given with meter and at");
    const { start = 0, ...change } = tempo;
    fields.tempo_map = { changes: [{ at: 0, ...change }], start };
  }
  return { id, fields, sounds };
}

function leading(rest) {
  const first = rest[0];
  if (typeof first === "string") {
    const found = /^(\d+(?:\.\d+)?(?:\/\d+)?)\s*([a-z]+)$/.exec(first.trim().toLowerCase());
    if (found === null || !(found[2] in UNITS)) return undefined;
    rest.shift();
    return counted(UNITS[found[2]], found[1]);
  }
  if (typeof first !== "number") return undefined;
  rest.shift();
  const unit = rest.length % 2 !== 0 && UNITS[String(rest[0]).toLowerCase()];
  if (unit) rest.shift();
  return counted(unit || "seconds", first);
}

function counted(unit, value) {
  if (unit === "bars" && typeof value === "string" && value.includes("/")) return { bars: value };
  return { [unit]: unit === "frames" ? whole(unit, value) : number(unit, value) };
}

function number(name, value) {
  const found = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  if (typeof found !== "number" || !Number.isFinite(found)) throw new WordError(name, value, "a number");
  return found;
}

function whole(name, value) {
  const found = number(name, value);
  if (!Number.isInteger(found)) throw new WordError(name, value, "a whole number");
  return found;
}

function text(name, value) {
  if (typeof value !== "string" && typeof value !== "number") throw new WordError(name, value ?? "absent", "a text");
  return String(value);
}

module.exports = { PATHS, KEYS, WordError, parse };
