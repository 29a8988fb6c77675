// A server of gRPC. usage: node grpc_server.js ADDRESS PORT, or unix:PATH for the address
// SIGTERM ends it when its calls are over; new ones are told to go elsewhere (GOAWAY).
'use strict';
const grpc = require('@grpc/grpc-js');
const service = require('./grpc.js');

const [address, port] = [process.argv[2], Number(process.argv[3])];
let cancelled = 0;

// What is said behind the messages.
function trailing() {
  const metadata = new grpc.Metadata();
  metadata.set('x-trailing', 'behind');
  metadata.set('x-bytes-bin', Buffer.from([0, 1, 255]));
  return metadata;
}

const server = new grpc.Server();
server.addService(service, {
  Id(call, callback) {
    const first = new grpc.Metadata();
    first.set('x-initial', 'before');
    call.sendMetadata(first);
    callback(null, { port, asked: call.request, metadata: call.metadata.getMap(),
      bytes: call.metadata.get('x-bytes-bin').map((bytes) => [...bytes]) }, trailing());
  },
  async Count(call) {
    for (let i = 0; i < call.request.count && !call.cancelled; i += 1) {
      const goesOn = call.write({ i, text: 'x'.repeat(call.request.size) });
      if (!goesOn) await new Promise((resolve) => { call.once('drain', resolve); });
    }
    call.end(trailing());
  },
  Sum(call, callback) {
    let [sum, bytes] = [0, 0];
    call.on('data', (message) => { sum += message.i; bytes += message.text.length; });
    call.on('end', () => callback(null, { sum, bytes }));
  },
  Echo(call) {
    call.sendMetadata(new grpc.Metadata());
    call.on('data', (message) => call.write(message));
    call.on('end', () => call.end(trailing()));
  },
  Fail(call, callback) {
    const { code, details } = call.request;
    callback({ code, details, metadata: trailing() });
  },
  Wait(call) {
    if (call.request.begins) call.write({ port });
    call.on('cancelled', () => { cancelled += 1; });
  },
  Cancelled(call, callback) {
    callback(null, { cancelled });
  },
});
const place = address.startsWith('unix:') ? address : `${address}:${port}`;
server.bindAsync(place, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
  console.log('listening');
});
process.on('SIGTERM', () => server.tryShutdown(() => process.exit(0)));
