// Node's servers, plain and with TLS: FOLDER with cert.pem and key.pem. Each says its name and port; both end with the input.
const fs = require('fs');
const [folder] = process.argv.slice(2);
const options = { cert: fs.readFileSync(`${folder}/cert.pem`), key: fs.readFileSync(`${folder}/key.pem`) };

const counter = () => {
  let count = 0;
  return (request, response) => {
    let length = 0;
    request.on('data', (data) => { length += data.length; });
    request.on('end', () => {
      count += 1;
      response.statusCode = request.url === '/bad' ? 400 : 200;
      response.end(`${request.method} ${length} ${count}`);
    });
  };
};
for (const [name, server] of [
  ['node', require('http').createServer(counter())],
  ['node-tls', require('https').createServer(options, counter())],
]) {
  server.listen(0, '127.0.0.1', () => console.log(`${name} ${server.address().port}`));
}
process.stdin.on('end', () => process.exit()).resume();
