// Answers of every kind that compression has to know. usage: node content.js HOST PORT. Prints
// "listening" once it does, and a line for each thing that a client has told it.
'use strict';
const http = require('http');
const zlib = require('zlib');
const { WebSocketServer } = require('ws');

const [host, port] = [process.argv[2], Number(process.argv[3])];
const text = (size) => 'All work and no play makes Jack a dull boy.\n'.repeat(size / 44 + 1).slice(0, size);
let go = () => {};

const pages = {
  // A text of ?size bytes with a strong tag.
  '/text': (req, res, query) => {
    const tag = '"v1"';
    const known = (req.headers['if-none-match'] || '').split(/, */).map((t) => t.replace(/^W\//, ''));
    if (known.includes(tag)) return res.writeHead(304, { etag: tag }).end();
    const body = text(Number(query.get('size')));
    res.writeHead(200, {
      'content-type': 'text/plain; charset=utf-8', 'content-length': body.length, etag: tag,
      'accept-ranges': 'bytes',
    });
    res.end(req.method === 'HEAD' ? undefined : body);
  },
  '/picture': (req, res) => res.writeHead(200, { 'content-type': 'image/png' }).end(text(5000)),
  '/coded': (req, res) => res.writeHead(200, { 'content-type': 'text/plain', 'content-encoding': 'gzip' })
    .end(zlib.gzipSync(text(5000))),
  '/fixed': (req, res) => res.writeHead(200, { 'content-type': 'text/plain', 'cache-control': 'no-transform' })
    .end(text(5000)),
  '/nothing': (req, res) => res.writeHead(204).end(),
  // One line, and another one when somebody says /go.
  '/drip': (req, res) => {
    res.writeHead(200, { 'content-type': 'text/plain' });
    res.write('one\n');
    go = () => res.end('two\n');
  },
  '/events': (req, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' });
    res.write('data: one\n\n');
    go = () => res.end('data: two\n\n');
  },
  '/broken': (req, res) => {
    res.writeHead(200, { 'content-type': 'text/plain' });
    res.write(text(5000), () => res.socket.destroy());
  },
  '/go': (req, res) => { go(); res.end(); },
  // What a browser found out.
  '/tell': (req, res, query) => { console.log('told: ' + query.get('what')); res.end(); },
  '/page': (req, res) => res.writeHead(200, { 'content-type': 'text/html' }).end(`<!doctype html><script>
    const tell = (what) => fetch('/tell?what=' + encodeURIComponent(what));
    const socket = new WebSocket('wss://' + location.host + '/ws');
    socket.onopen = () => socket.send('hello');
    socket.onerror = () => tell('the WebSocket failed');
    socket.onmessage = (event) => tell('WebSocket says ' + event.data + ' by '
      + performance.getEntriesByType('navigation')[0].nextHopProtocol
      + ' to a ' + navigator.userAgent.match(/\\w*Chrome/));
  </script>`),
};

const server = http.createServer((req, res) => {
  const url = new URL(req.url, 'http://host');
  const page = pages[url.pathname];
  if (page) page(req, res, url.searchParams); else res.writeHead(404).end();
});
server.keepAliveTimeout = 60000;
const ws = new WebSocketServer({ server, path: '/ws' });
ws.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));
server.listen(port, host, () => console.log('listening'));
