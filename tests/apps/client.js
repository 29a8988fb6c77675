// Socket.IO, WebSocket and HTTP/2 clients with addresses of their own, told what to do by lines of JSON:
//   {"do":"open","kind":"polling"|"websocket"|"both"|"ws"|"h2","url":…,"from":[address, …]}
//   {"do":"echo","size":N}   every client sends N bytes and waits for them to come back
//   {"do":"ports"}           the port of the copy that each client is on, by address
//   {"do":"counts"}          how many clients are on each copy, by its port
//   {"do":"disconnects"}     the addresses that have lost their connection since they opened
//   {"do":"errors"}          what clients were told that went wrong, each with its times
//   {"do":"close"}
//   {"do":"forget"}          closes all, and has none any more
// An "h2" client has one connection, over TLS without a look at the certificate, asks on it all the
// time, and notes requests that fail.
// Each is answered by one line: {"ok":…} or {"error":…}.
'use strict';
const http = require('http');
const http2 = require('http2');
const tls = require('tls');
const readline = require('readline');
const { io } = require('socket.io-client');
const WebSocket = require('ws');

const clients = [];
const within = (ms, what, promise) =>
  Promise.race([
    promise,
    new Promise((_, fail) => setTimeout(() => fail(new Error(`${what}: ${ms} ms are over`)), ms).unref()),
  ]);

// What went wrong: the status, and the answer's text if there is one.
const errors = {};
function note(error) {
  if (!error) return;
  const answer = error.context && error.context.responseText;
  const text = [error.message, error.description && (error.description.message || error.description), answer]
    .filter((part) => part !== undefined).join(': ');
  errors[text] = (errors[text] || 0) + 1;
}

function openSocketIo(url, from, transports) {
  // The agent is what carries the local address. Without keep-alive every poll is a connection of
  // its own, and a session that lands on another copy ends.
  const agent = new http.Agent({ localAddress: from, keepAlive: false });
  const socket = io(url, { transports, agent, localAddress: from, forceNew: true, reconnection: true,
    reconnectionDelay: 50, reconnectionDelayMax: 200 });
  const client = { from, lost: 0, port: null };
  client.echo = (text) => new Promise((done) => socket.emit('echo', text, done));
  client.close = () => { socket.disconnect(); agent.destroy(); };
  socket.on('disconnect', (reason, details) => { client.lost += 1; note(details); });
  return new Promise((done, fail) => {
    socket.on('me', (me) => { client.port = me.port; client.remote = me.remote; done(client); });
    socket.on('connect_error', (error) => { client.lost += 1; note(error); if (!client.port) fail(error); });
  });
}

function openWs(url, from) {
  const socket = new WebSocket(url.replace('http', 'ws') + '/ws', { localAddress: from });
  const client = { from, lost: 0, port: null };
  client.close = () => socket.terminate();
  socket.on('close', () => { client.lost += 1; });
  return new Promise((done, fail) => {
    socket.on('error', fail);
    socket.once('message', (text) => {
      const me = JSON.parse(text);
      client.port = me.port;
      client.remote = me.remote;
      client.echo = (sent) => new Promise((back) => {
        socket.once('message', (data) => back(data.toString()));
        socket.send(sent);
      });
      done(client);
    });
  });
}

// One request; its answer's text.
function ask(session, headers, body) {
  return new Promise((done, fail) => {
    const stream = session.request(headers);
    const parts = [];
    let status = 0;
    stream.on('response', (answer) => { status = answer[':status']; });
    stream.on('data', (data) => parts.push(data));
    stream.on('error', fail);
    stream.on('close', () => {
      if (status === 200) done(Buffer.concat(parts).toString());
      else fail(new Error(`status ${status}`));
    });
    stream.end(body);
  });
}

async function openH2(url, from) {
  const { hostname: host, port } = new URL(url);
  const session = http2.connect(url, { createConnection: () => tls.connect({
    host, port: port || 443, localAddress: from, ALPNProtocols: ['h2'], rejectUnauthorized: false }) });
  const client = { from, lost: 0, port: null };
  const over = () => { client.lost += 1; clearInterval(client.timer); };
  session.on('error', () => {});
  session.on('goaway', over);
  session.on('close', over);
  client.close = () => { clearInterval(client.timer); session.destroy(); };
  client.echo = (text) => ask(session, { ':method': 'POST', ':path': '/echo' }, text);
  const id = () => ask(session, { ':path': '/id' });
  client.port = JSON.parse(await id()).port;
  client.timer = setInterval(() => {
    // What fails with the connection is told by that.
    id().catch((error) => { if (!client.lost && !session.destroyed) note(error); });
  }, 100);
  return client;
}

const openers = { ws: openWs, h2: openH2 };
const transports = { polling: ['polling'], websocket: ['websocket'], both: ['polling', 'websocket'] };
const actions = {
  async open({ kind, url, from }) {
    const one = (address) => (openers[kind]
      ? openers[kind](url, address) : openSocketIo(url, address, transports[kind]));
    // A few at a time, as clients come.
    for (let i = 0; i < from.length; i += 20) {
      const opened = await within(50000, 'open', Promise.all(from.slice(i, i + 20).map(one)));
      clients.push(...opened);
    }
    return clients.length;
  },
  async echo({ size }) {
    const text = 'x'.repeat(size - 1) + 'y';
    const one = async (client) => {
      const back = await within(50000, `echo to ${client.from}`, client.echo(text));
      if (back !== text) throw new Error(`${client.from} got something else back`);
    };
    await Promise.all(clients.map(one));
    return clients.length;
  },
  async ports() { return Object.fromEntries(clients.map((c) => [c.from, c.port])); },
  async counts() {
    const counts = {};
    clients.forEach((c) => { counts[c.port] = (counts[c.port] || 0) + 1; });
    return counts;
  },
  async remotes() { return Object.fromEntries(clients.map((c) => [c.from, c.remote])); },
  async disconnects() { return clients.filter((c) => c.lost > 0).map((c) => c.from); },
  async errors() { return errors; },
  async close() { clients.forEach((client) => client.close()); return clients.length; },
  async forget() { clients.splice(0).forEach((client) => client.close()); return clients.length; },
};

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  try {
    const command = JSON.parse(line);
    console.log(JSON.stringify({ ok: await actions[command.do](command) }));
  } catch (error) {
    console.log(JSON.stringify({ error: String((error && error.message) || error) }));
  }
}).on('close', () => process.exit(0));
