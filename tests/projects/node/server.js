import { createServer } from "node:http";
import { Tally } from "tally";

const tally = new Tally();

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  response.setHeader("content-type", "application/json");
  if (pathname === "/healthz") {
    response.end(JSON.stringify({ ok: true }));
    return;
  }
  response.end(JSON.stringify({ path: pathname, visit: tally.add(pathname) }));
});

server.listen(8080, () => console.log("listening on 8080"));

process.on("SIGTERM", () => server.close(() => process.exit(0)));
