/** Types of segue-client. Words and units are those of protocol/SPEC.md. */
import { EventEmitter } from "node:events";

export const MAJOR: number;
export const MINOR: number;
export const LIMITS: Readonly<Record<
  | "frame_bytes" | "message_bytes" | "header_bytes" | "wait_ms" | "credit_bytes" | "payloads" | "levels"
  | "text_bytes" | "binary_bytes" | "array_items" | "map_items", number>>;

/** What the daemon refused; or E_UNREACHABLE and E_TIMEOUT, when none could be reached. */
export class SegueError extends Error {
  constructor(code: string, message: string, more?: Partial<Omit<SegueError, "code" | "message" | "name">>);
  static fromWire(map: unknown): SegueError;
  code: string;
  retry: "never" | "same" | "after" | "new_key" | "reconnect" | string;
  /** The field that is wrong, for instance `length.seconds`. */
  field?: string;
  /** What it held. */
  value?: unknown;
  /** What it may hold, in words. */
  allowed?: string;
  retry_ms?: number;
  detail?: string;
  job?: string;
}

/** A number, or text "n/d" taken exactly. */
export type Rational = number | string;

/** Exactly one of the three. */
export interface Length { frames?: number; seconds?: number; bars?: Rational }
export interface TempoChange { at: Rational; bpm: Rational; beats?: number; unit?: number; mid_bar?: boolean }
export interface TempoMap { changes: TempoChange[]; /** where the seam lies, in quarter notes */ start?: Rational }
export interface Chord { at: Rational; chord?: string; pitches?: number[] }

/** Audio on its way in. One array is interleaved; a list holds one array for each channel. */
export interface Sound {
  samples: Float32Array | Float32Array[];
  /** Hz */
  rate: number;
  /** 1 or 2; 1 if absent, and told by `samples` where that is a list */
  channels?: number;
  /** of its first frame, in its own frames from the seam */
  position?: number;
  track?: number;
  stem?: string;
}

export interface Wishes {
  /** 16 bytes; made if absent */
  key?: Uint8Array;
  length?: Length;
  session?: Uint8Array;
  project?: string;
  model?: string;
  text?: string;
  negative_text?: string;
  tempo_map?: TempoMap;
  harmony?: Chord[];
  variations?: number;
  stems?: string[];
  seed?: number;
  sampling?: { use_sampling?: boolean; temperature?: number; top_k?: number; top_p?: number };
  guidance?: { cfg_coef?: number; cfg_coef_beta?: number };
  /** Hz, of the answer */
  rate?: number;
  channels?: 1 | 2;
  handle_ms?: number;
  tail_ms?: number;
  level?: "match" | "off";
  priority?: "live" | "interactive" | "batch";
  deadline_ms?: number;
  loop?: boolean;
  start?: "edge" | "bar";
  strength?: number;
  /** further sounds, each with its `role` */
  audio?: (Sound & { role: string })[];
  [later: string]: unknown;
}

export interface AskOptions {
  /** Ends the waiting, never the job. */
  signal?: AbortSignal;
  /** How long to go on trying, in milliseconds. */
  patience_ms?: number;
}

export interface Answer { reply: any; payloads: Uint8Array[] }

export interface Options {
  /** the runtime folder, if not the usual one */
  folder?: string;
  /** of a daemon on the network; default: the environment's SEGUE_CONNECTION */
  keyFile?: string;
  /** whether a daemon may be started; default true, never with a key file */
  start?: boolean;
  /** default: `segue serve`, or with the environment's SEGUE_COMMAND in place of `segue` */
  command?: string[];
  /** what the daemon's log calls this program */
  name?: string;
  version?: string;
  /** how long a question is tried, the daemon's start and its death included; default 60,000 */
  patience_ms?: number;
  session?: Uint8Array;
  project?: string;
}

export class Segue extends EventEmitter {
  constructor(options?: Options);
  static connect(options?: Options & { signal?: AbortSignal }): Promise<Segue>;
  readonly hello: any;
  session?: Uint8Array;
  project?: string;
  close(): void;
  ask(op: string, fields?: Record<string, unknown>, payloads?: Uint8Array[], options?: AskOptions): Promise<Answer>;
  ping(options?: AskOptions): Promise<any>;
  models(options?: AskOptions): Promise<any>;
  load(model: string, fields?: { keep_alive_s?: number; wait_ms?: number }, options?: AskOptions): Promise<any>;
  unload(model: string, fields?: { wait_ms?: number }, options?: AskOptions): Promise<any>;
  pause(fields?: { release?: boolean }, options?: AskOptions): Promise<any>;
  resume(options?: AskOptions): Promise<any>;
  drain(fields?: { stop?: boolean; finish?: "none" | "running" | "all" }, options?: AskOptions): Promise<any>;
  metrics(options?: AskOptions): Promise<string>;
  list(fields?: ListFields, options?: AskOptions): Promise<{ jobs?: any[]; next?: string }>;
  jobs(fields?: ListFields, options?: AskOptions): AsyncGenerator<any, void, void>;
  submit(request: Wishes & { mode: string }, options?: AskOptions): Promise<Job>;
  continue(request: Wishes & { prompt: Sound }, options?: AskOptions): Promise<Job>;
  generate(request: Wishes, options?: AskOptions): Promise<Job>;
  accompany(request: Wishes & { context: Sound[]; prompt?: Sound }, options?: AskOptions): Promise<Job>;
  vary(request: Wishes & { source: Sound; prompt?: Sound }, options?: AskOptions): Promise<Job>;
  fill(request: Wishes & { following: Sound; prompt?: Sound }, options?: AskOptions): Promise<Job>;
  job(id: string): Job;
  on(event: "waiting" | "notice", listener: (sentence: string) => void): this;
  on(event: "hello", listener: (hello: any) => void): this;
}

export interface ListFields {
  session?: Uint8Array; project?: string; states?: string[]; limit?: number; before?: string;
}

export interface AudioEvent {
  event: "audio"; seq: number; attempt: number; variation: number; stem: string;
  /** of the first frame, from the take's first; below 0: handle */
  position: number;
  frames: number; rate: number; channels: number; crc: number;
  /** interleaved; absent where the samples did not travel */
  samples?: Float32Array;
}
export interface Tick {
  event: "tick"; state: string; position?: number; step?: number; steps?: number; samples?: number;
  seconds?: number; xrt?: number; eta_ms?: number; note?: string;
}
export type JobEvent =
  | AudioEvent
  | Tick
  | { event: "accepted"; seq: number; position: number }
  | { event: "started"; seq: number; attempt: number; model: string; device: string }
  | { event: "requeued"; seq: number; why: string; discard_from?: number }
  | { event: "done"; seq: number; manifest: any }
  | { event: "failed"; seq: number; error: any }
  | { event: "cancelled"; seq: number; why: string };

export interface Part { variation?: number; stem?: string; part?: "take" | "handle" | "tail" }

export class Job {
  readonly id: string;
  readonly key?: Uint8Array;
  readonly seed: number;
  readonly again: boolean;
  /** the whole reply of `submit` or `retake` */
  readonly reply: any;
  state: string;
  position: number;
  events(options?: AskOptions & { after?: number; wait_ms?: number; max_bytes?: number; ticks?: boolean }): AsyncGenerator<JobEvent, void, void>;
  stream(options?: AskOptions & { after?: number; credit?: number; ticks?: boolean }): AsyncGenerator<JobEvent, void, void>;
  finished(options?: { onEvent?: (event: JobEvent) => void; signal?: AbortSignal; push?: boolean }): Promise<{ state: "done" | "cancelled"; manifest: any; takes: Assembly }>;
  cancel(options?: AskOptions): Promise<any>;
  retake(options?: AskOptions & { seed?: number; variations?: number; change?: Partial<Wishes>; key?: Uint8Array }): Promise<Job>;
  status(options?: AskOptions): Promise<any>;
  forget(options?: AskOptions): Promise<any>;
  fetch(options?: AskOptions & Part): Promise<any>;
  fetchBytes(options?: AskOptions & Part & { max_bytes?: number }): Promise<any>;
  take(options?: AskOptions & Part): Promise<Required<Audio>>;
}

export interface Audio { samples: Float32Array; rate: number; channels: number; frames: number; position?: number }

export class Assembly {
  add(event: JobEvent): void;
  get(variation?: number, stem?: string): Required<Audio> | undefined;
}

export function newKey(): Uint8Array;
export function interleave(planes: Float32Array[]): Float32Array;
export function planes(samples: Float32Array, channels: number): Float32Array[];
export function readWav(bytes: Uint8Array): Required<Omit<Audio, "position">>;
export function writeWav(samples: Float32Array, rate: number, channels: number): Uint8Array;
export function crc32(bytes: Uint8Array, before?: number): number;

export interface Connection {
  endpoints: string[]; token: Uint8Array; serverKey: string | null; publicKey: string | null;
  secretKey: string | null; pid: number; file: string; signature: string; remote: boolean;
}
export function runtimeFolders(env?: Record<string, string | undefined>): string[];
export function findConnection(folder?: string): Connection | null;
export function readKeyFile(file: string): Connection;
export function encodeRequest(op: string, id: number, fields: Record<string, unknown>, payloads: Uint8Array[], token: Uint8Array): Uint8Array[];
export function decodeMessage(frames: Uint8Array[]): { header: any; payloads: Uint8Array[] };
