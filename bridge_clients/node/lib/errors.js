// What can go wrong, in the protocol's own terms.

/**
 * A refusal of the daemon, or (codes E_UNREACHABLE and E_TIMEOUT) that no daemon could be reached.
 * `message` is one sentence for the musician; programs go by `code`, and by `retry` where they do not know it.
 */
export class SegueError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retry?: string, field?: string, value?: unknown, allowed?: string, retry_ms?: number,
   *          detail?: string, job?: string, cause?: unknown}} [more]
   */
  constructor(code, message, more = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "SegueError";
    this.code = code;
    this.retry = more.retry ?? "never";
    this.field = more.field;
    this.value = more.value;
    this.allowed = more.allowed;
    this.retry_ms = more.retry_ms;
    this.detail = more.detail;
    this.job = more.job;
  }

  /** The `error` map of a refusal. @param {any} map */
  static fromWire(map) {
    const given = map !== null && typeof map === "object" ? map : {};
    return new SegueError(
      typeof given.code === "string" ? given.code : "E_INTERNAL",
      typeof given.message === "string" ? given.message : "The daemon refused without saying why.",
      {
        retry: text(given.retry),
        field: text(given.field),
        value: given.value,
        allowed: text(given.allowed),
        retry_ms: typeof given.retry_ms === "number" ? given.retry_ms : undefined,
        detail: text(given.detail),
        job: text(given.job),
      },
    );
  }
}

/** @param {unknown} value */
function text(value) {
  return typeof value === "string" ? value : undefined;
}
