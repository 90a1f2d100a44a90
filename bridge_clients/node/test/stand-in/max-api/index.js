// A stand-in for Max's own module, for the tests alone: messages are JSON lines on stdin, outlets on stdout.
"use strict";

const readline = require("node:readline");

const handlers = {};
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [message, ...words] = JSON.parse(line);
  if (handlers[message] === undefined) process.stdout.write(`${JSON.stringify(["unhandled", message])}\n`);
  else handlers[message](...words);
});

module.exports = {
  addHandlers(given) {
    Object.assign(handlers, given);
  },
  async outlet(...words) {
    for (const word of words) {
      if (typeof word !== "string" && typeof word !== "number") throw new TypeError(`an outlet of ${typeof word}`);
    }
    process.stdout.write(`${JSON.stringify(words)}\n`);
  },
};
