// The back end of a site, as Express's guides have it: login with a session cookie, uploads, Socket.IO for members.
// usage: node site.js HOST PORT. Prints "listening" once it does. Sessions are in memory, so clients have to stay.
'use strict';
const crypto = require('crypto');
const http = require('http');
const { Readable } = require('stream');
const express = require('express');
const { Server } = require('socket.io');

const [host, port] = [process.argv[2], Number(process.argv[3])];
const sessions = new Map();
const sessionOf = (req) => sessions.get(((req.headers.cookie || '').match(/(?:^|; )sid=([0-9a-f]+)/) || [])[1]);
const members = (req, res, next) => (sessionOf(req) ? next() : res.status(401).json({ error: 'log in first' }));

const app = express();
app.set('trust proxy', 1);
app.use(express.json());

app.post('/api/login', (req, res) => {
  if (req.body.password !== 'open sesame') return res.status(403).json({ error: 'wrong password' });
  const id = crypto.randomBytes(16).toString('hex');
  sessions.set(id, { user: req.body.user });
  res.cookie('sid', id, { httpOnly: true, secure: req.secure, sameSite: 'lax' });
  res.json({ user: req.body.user, ip: req.ip, secure: req.secure });
});
app.get('/api/me', members, (req, res) => res.set('Cache-Control', 'private').json(sessionOf(req)));

// One multipart form with a file.
app.post('/api/upload', members, async (req, res) => {
  const form = await new Response(Readable.toWeb(req), { headers: { 'content-type': req.headers['content-type'] } })
    .formData();
  const file = form.get('file');
  const bytes = Buffer.from(await file.arrayBuffer());
  const sha256 = crypto.createHash('sha256').update(bytes).digest('hex');
  res.json({ name: file.name, size: bytes.length, sha256, title: form.get('title') });
});

// For shared caches alone: a browser has to ask each time.
let made = 0;
app.get('/api/prices', (req, res) => {
  made += 1;
  res.set('Cache-Control', 'max-age=0, s-maxage=600');
  res.json({ made, prices: Array.from({ length: 500 }, (_, n) => ({ item: `item ${n}`, price: n * 7 % 100 })) });
});
app.get('/api/search', (req, res) => res.type('html').send('<title>Found</title>'));

const server = http.createServer(app);
server.keepAliveTimeout = 60000;
const io = new Server(server);
io.use((socket, next) => (sessionOf(socket.request) ? next() : next(new Error('log in first'))));
io.on('connection', (socket) => {
  const { user } = sessionOf(socket.request);
  socket.on('say', (text) => io.emit('said', { user, text }));
});
server.listen(port, host, () => console.log('listening'));
