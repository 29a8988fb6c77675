// One copy of a web application: Express, Socket.IO and plain WebSockets.
// usage: node server.js HOST PORT, or PATH NUMBER for a unix socket. Prints "listening" once it does.
// It calls itself by its port, or by NUMBER from the environment. END_AT names the signal that ends it.
'use strict';
const http = require('http');
const express = require('express');
const { Server } = require('socket.io');
const { WebSocketServer } = require('ws');

const [host, port] = [process.argv[2], Number(process.argv[3])];
const app = express();
const number = Number(process.env.NUMBER || port);
const me = (req) => ({ pid: process.pid, port: number, remote: req.socket.remoteAddress });

app.get('/id', (req, res) => res.json(me(req)));
app.post('/echo', (req, res) => req.pipe(res));

// What Express makes of a request. TRUST_PROXY is its setting of that name, in JSON.
app.set('trust proxy', JSON.parse(process.env.TRUST_PROXY || '1'));
app.all('/request', (req, res) => res.json({
  ip: req.ip, ips: req.ips, protocol: req.protocol, hostname: req.hostname,
  method: req.method, url: req.url, headers: req.headers,
}));

const server = http.createServer(app);
server.keepAliveTimeout = 60000;
const io = new Server(server, { pingInterval: 2000, pingTimeout: 8000, allowEIO3: true });
io.on('connection', (socket) => {
  socket.emit('me', me(socket.request));
  socket.on('echo', (message, answer) => answer(message));
});

const ws = new WebSocketServer({ noServer: true });
ws.on('connection', (socket, req) => {
  socket.send(JSON.stringify(me(req)));
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});
server.on('upgrade', (req, socket, head) => {
  if (req.url === '/ws') ws.handleUpgrade(req, socket, head, (s) => ws.emit('connection', s, req));
});

const where = host.startsWith('/') ? { path: host } : { port, host, backlog: 4096 };
server.listen(where, () => console.log('listening'));

// Ends well: takes nothing new, answers what is under way, closes WebSockets. (Engine.IO's own
// close makes clients come back by themselves; socket.disconnect() would tell them to stay away.)
process.on(process.env.END_AT || 'SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
  io.engine.close();
  ws.clients.forEach((socket) => socket.close(1012));
  // Keep-alive connections whose last answer has just been sent.
  setInterval(() => server.closeIdleConnections(), 50);
});
