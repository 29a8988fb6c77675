// Tells the headers of each request over HTTP/2 without TLS, in JSON. usage: node h2c_headers.js ADDRESS PORT
'use strict';
const http2 = require('http2');

const [address, port] = [process.argv[2], Number(process.argv[3])];
const server = http2.createServer((req, res) => {
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify({ headers: req.headers }));
});
server.listen(port, address, () => console.log('listening'));
process.on('SIGTERM', () => process.exit(0));
