// A UDP echo. usage: node udp.js HOST PORT. Answers with its port, a colon and what it got.
'use strict';
const dgram = require('dgram');

const [host, port] = [process.argv[2], Number(process.argv[3])];
const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
socket.on('message', (data, peer) => {
  socket.send(Buffer.concat([Buffer.from(`${port}:`), data]), peer.port, peer.address);
});
socket.bind(port, host, () => console.log('listening'));
