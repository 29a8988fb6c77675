// A UDP echo. usage: node udp.js HOST PORT. Answers with its port (or NUMBER from the environment), a colon
// and what it got.
'use strict';
const dgram = require('dgram');

const [host, port] = [process.argv[2], Number(process.argv[3])];
const number = process.env.NUMBER || port;
const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
socket.on('message', (data, peer) => {
  socket.send(Buffer.concat([Buffer.from(`${number}:`), data]), peer.port, peer.address);
});
socket.bind(port, host, () => console.log('listening'));
