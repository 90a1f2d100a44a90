// Starting a daemon where none runs. It is a process of its own and outlives this program.
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { runtimeFolders } from "./connection.js";
import { SegueError } from "./errors.js";

const ALREADY_RUNNING = 3;

/** A daemon on its way; who asks it again and again learns whether there is hope. */
export class Starting {
  /**
   * @param {string[]} command `segue serve`, or how else
   * @param {string} [folder] the runtime folder, if not the usual one
   */
  constructor(command, folder) {
    const place = ownFolder(folder === undefined ? runtimeFolders() : [folder]);
    this.command = command;
    this.log = path.join(place, "start.log");
    /** @type {SegueError | null} */
    this.failed = null;
    this.ended_ms = 0;
    const log = fs.openSync(
      this.log,
      fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_TRUNC | fs.constants.O_APPEND | (fs.constants.O_NOFOLLOW ?? 0),
      0o600,
    );
    try {
      const child = spawn(command[0], command.slice(1), {
        detached: true,
        stdio: ["ignore", log, log],
        cwd: place,
        env: folder === undefined ? process.env : { ...process.env, SEGUE_RUNTIME: place },
      });
      child.on("error", (error) => {
        const missing = /** @type {NodeJS.ErrnoException} */ (error).code === "ENOENT";
        this.failed = new SegueError(
          "E_UNREACHABLE",
          missing
            ? `No daemon runs, and the command ${command[0]} that starts one was not found.`
            : `The daemon cannot be started: ${error.message}.`,
          { field: "command", value: command[0], allowed: "the path of the segue command", cause: error },
        );
      });
      child.on("exit", (status) => {
        this.ended_ms = Date.now();
        if (status !== 0 && status !== ALREADY_RUNNING) {
          this.failed = new SegueError(
            "E_UNREACHABLE",
            `The daemon ended while starting (status ${status}): ${this.#lastLine()}`,
            { detail: this.log },
          );
        }
      });
      child.unref();
    } finally {
      fs.closeSync(log);
    }
  }

  /** How long ago the command has ended; 0 while it runs. */
  sinceEnd_ms() {
    return this.ended_ms === 0 ? 0 : Date.now() - this.ended_ms;
  }

  #lastLine() {
    try {
      const lines = fs.readFileSync(this.log, "utf8").split("\n").map((line) => line.trim()).filter(Boolean);
      return lines.length > 0 ? lines[lines.length - 1].slice(0, 400) : "it said nothing.";
    } catch {
      return "no log was written.";
    }
  }
}

/** The first of these that can be ours alone, made if need be. @param {string[]} folders */
function ownFolder(folders) {
  let problem = "no place is known";
  for (const folder of folders) {
    try {
      fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
      const info = fs.lstatSync(folder);
      if (!info.isDirectory() || (process.getuid !== undefined && info.uid !== process.getuid())) {
        problem = `${folder} is not a folder of yours`;
        continue;
      }
      if ((info.mode & 0o077) !== 0) fs.chmodSync(folder, 0o700);
      return folder;
    } catch (error) {
      problem = `${folder} cannot be made (${/** @type {NodeJS.ErrnoException} */ (error).code})`;
    }
  }
  throw new SegueError("E_UNREACHABLE", `${problem}; set SEGUE_RUNTIME to a folder of your own.`);
}
