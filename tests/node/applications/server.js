// Counts its requests over HTTP: "TOKEN COUNT", the token being drawn at the start.
"use strict";
const token = require("node:crypto").randomUUID();
let count = 0;
const server = require("node:http").createServer((request, response) => response.end(`${token} ${++count}\n`));
server.keepAliveTimeout = 0;
server.listen(8080);
process.on("SIGTERM", () => process.exit(143));
