// Pieces of audio put together to takes.
import { SegueError } from "./errors.js";

/** One stem of one variation. @typedef {{position: number, rate: number, channels: number, pieces: Float32Array[], frames: number}} Track */

/** Audio events put together; what a `requeued` event declares void is taken out again. */
export class Assembly {
  constructor() {
    /** @type {Map<string, Track & {variation: number, stem: string}>} */
    this.tracks = new Map();
  }

  /** @param {any} event any event; those without samples change nothing */
  add(event) {
    if (event.event === "requeued" && event.discard_from != null) this.#discard(event.discard_from);
    if (event.event !== "audio" || event.samples === undefined) return;
    const name = `${event.variation}/${event.stem}`;
    const track = this.tracks.get(name) ?? {
      variation: event.variation, stem: event.stem, position: event.position,
      rate: event.rate, channels: event.channels, pieces: /** @type {Float32Array[]} */ ([]), frames: 0,
    };
    if (event.position !== track.position + track.frames) {
      throw new SegueError("E_AUDIO", `There is a gap or an overlap in the audio at sample ${event.position}.`);
    }
    this.tracks.set(name, track);
    track.pieces.push(event.samples);
    track.frames += event.frames;
  }

  /** @param {number} from */
  #discard(from) {
    for (const [name, track] of this.tracks) {
      const kept = Math.max(0, from - track.position);
      if (kept === 0) {
        this.tracks.delete(name);
        continue;
      }
      if (kept >= track.frames) continue;
      track.pieces = [joined(track.pieces).slice(0, kept * track.channels)];
      track.frames = kept;
    }
  }

  /**
   * @param {number} [variation] @param {string} [stem]
   * @returns {{position: number, rate: number, channels: number, frames: number, samples: Float32Array} | undefined}
   */
  get(variation = 0, stem = "mix") {
    const track = this.tracks.get(`${variation}/${stem}`);
    if (track === undefined) return undefined;
    const samples = joined(track.pieces);
    track.pieces = [samples];
    return { position: track.position, rate: track.rate, channels: track.channels, frames: track.frames, samples };
  }
}

/** @param {Float32Array[]} pieces */
function joined(pieces) {
  if (pieces.length === 1) return pieces[0];
  const made = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    made.set(piece, at);
    at += piece.length;
  }
  return made;
}
