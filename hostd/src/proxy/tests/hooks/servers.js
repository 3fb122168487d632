// Node's server with three ways to look a path up, the third by Express. Each says its name and port; all end with the input.
'use strict';
const http = require('node:http');
const express = require('express');

const HOOKS = '/aws/lambda-microvms/runtime/v1/';

function listen(name, handle) {
  const server = http.createServer(handle);
  server.listen(0, '127.0.0.1', () => console.log(`${name} ${server.address().port}`));
}

// What a router is given: a path, whether it is a hook.
function byPath(pathOf) {
  let reached = 0;
  return (request, response) => {
    request.resume();
    let path = '';
    try {
      path = pathOf(request.url);
    } catch {
      // It is no URL.
    }
    if (path === '/reached') return response.end(String(reached));
    if (path.startsWith(HOOKS)) {
      reached += 1;
      return response.end('a hook');
    }
    response.statusCode = 404;
    response.end(`no hook: ${request.url}`);
  };
}

listen('node', byPath((url) => new URL(url, 'http://app').pathname));
listen('node-decoding', byPath((url) => new URL(unescape(url), 'http://app').pathname));

const app = express();
let reached = 0;
app.get('/reached', (_, response) => response.end(String(reached)));
app.use(HOOKS, (_, response) => {
  reached += 1;
  response.end('a hook');
});
listen('express', app);

process.stdin.resume().on('end', () => process.exit());
