// A client of gRPC. usage: node grpc_client.js ADDRESS:PORT [AUTHORITY-PEM]
// Makes calls of every kind and says what of them went well, then "all went well". With HAMMER=SECONDS it
// makes calls one after the other on many channels and says how many there were on which server; with
// USERS=NUMBER it calls three times as each of so many users.
'use strict';
const assert = require('assert');
const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const service = require('./grpc.js');

const [target, ca] = process.argv.slice(2);
const Client = grpc.makeGenericClientConstructor(service, 'Test');

function connect() {
  const alone = { 'grpc.use_local_subchannel_pool': 1 };
  if (!ca) return new Client(target, grpc.credentials.createInsecure(), alone);
  const name = { 'grpc.ssl_target_name_override': 'a.test', 'grpc.default_authority': 'a.test' };
  return new Client(target, grpc.credentials.createSsl(fs.readFileSync(ca)), { ...alone, ...name });
}

const client = connect();
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const metadata = (pairs) => {
  const made = new grpc.Metadata();
  for (const [name, value] of Object.entries(pairs)) made.set(name, value);
  return made;
};

// One message each way: the answer with its metadata, or an error.
function unary(name, message, { pairs = {}, options = {}, of = client } = {}) {
  return new Promise((resolve, reject) => {
    const answer = {};
    const call = of[name](message, metadata(pairs), options, (error, value) => {
      if (error) reject(error);
      answer.value = value;
    });
    call.on('metadata', (first) => { answer.first = first; });
    // It comes behind the message.
    call.on('status', (status) => resolve(Object.assign(answer, { status })));
  });
}

// All messages of a stream, with its status.
function all(call, onData = () => {}) {
  return new Promise((resolve, reject) => {
    const messages = [];
    call.on('data', (message) => { messages.push(message); onData(message); });
    call.on('error', reject);
    call.on('status', (status) => { if (status.code === 0) resolve({ messages, status }); });
  });
}

const failure = (promise) => promise.then(() => assert.fail('it went well'), (error) => error);

async function write(call, count, size) {
  for (let i = 0; i < count; i += 1) {
    if (!call.write({ i, text: 'x'.repeat(size) })) {
      await new Promise((resolve) => { call.once('drain', resolve); });
    }
  }
  call.end();
}

const checks = {
  async unary() {
    const pairs = { 'x-mine': 'yes', 'x-bytes-bin': Buffer.from([255, 0]) };
    const { value, first, status } = await unary('Id', { a: 1 }, { pairs });
    assert.deepStrictEqual(value.asked, { a: 1 });
    assert.strictEqual(value.metadata['x-mine'], 'yes');
    assert.deepStrictEqual(value.bytes, [[255, 0]]);
    assert.ok(value.metadata['x-forwarded-for'], 'the client is named');
    assert.strictEqual(value.metadata['x-forwarded-proto'], ca ? 'https' : 'http');
    assert.deepStrictEqual(first.get('x-initial'), ['before']);
    assert.strictEqual(status.code, 0);
    assert.deepStrictEqual(status.metadata.get('x-trailing'), ['behind']);
    assert.deepStrictEqual([...status.metadata.get('x-bytes-bin')[0]], [0, 1, 255]);
  },
  async large() {
    const text = 'y'.repeat(3 << 20);
    const { value } = await unary('Id', { text });
    assert.strictEqual(value.asked.text, text);
  },
  async 'server streaming'() {
    const { messages, status } = await all(client.Count({ count: 2000, size: 5000 }));
    assert.deepStrictEqual(messages.map((message) => message.i), [...Array(2000).keys()]);
    assert.ok(messages.every((message) => message.text.length === 5000));
    assert.deepStrictEqual(status.metadata.get('x-trailing'), ['behind']);
  },
  async 'client streaming'() {
    const sum = await new Promise((resolve, reject) => {
      const call = client.Sum((error, value) => (error ? reject(error) : resolve(value)));
      write(call, 2000, 5000);
    });
    assert.deepStrictEqual(sum, { sum: 1999000, bytes: 10000000 });
  },
  async bidirectional() {
    const call = client.Echo();
    let next = 0;
    const send = () => { if (next < 500) call.write({ i: next += 1 }); else call.end(); };
    // One at a time: each goes when the one before is back.
    const { messages, status } = await new Promise((resolve, reject) => {
      all(call, send).then(resolve, reject);
      send();
    });
    assert.deepStrictEqual(messages.map((message) => message.i), [...Array(500).keys()].map((i) => i + 1));
    assert.deepStrictEqual(status.metadata.get('x-trailing'), ['behind']);
    const many = client.Echo();
    const back = all(many);
    await write(many, 1000, 5000);
    assert.strictEqual((await back).messages.length, 1000);
  },
  async error() {
    const error = await failure(unary('Fail', { code: 9, details: 'not so: 100 % ä' }));
    assert.deepStrictEqual([error.code, error.details], [9, 'not so: 100 % ä']);
    assert.deepStrictEqual(error.metadata.get('x-trailing'), ['behind']);
  },
  async unimplemented() {
    const Other = grpc.makeGenericClientConstructor(
      { Nothing: { ...service.Id, path: '/lb.Test/Nothing' } }, 'Test');
    const other = new Other(target, client.getChannel(), { channelOverride: client.getChannel() });
    const error = await failure(new Promise((resolve, reject) => {
      other.Nothing({}, (error, value) => (error ? reject(error) : resolve(value)));
    }));
    assert.strictEqual(error.code, grpc.status.UNIMPLEMENTED);
  },
  async deadline() {
    const before = (await unary('Cancelled', {})).value.cancelled;
    const error = await failure(all(client.Wait({}, { deadline: Date.now() + 300 })));
    assert.strictEqual(error.code, grpc.status.DEADLINE_EXCEEDED);
    await cancelled(before + 1);
  },
  async cancel() {
    const before = (await unary('Cancelled', {})).value.cancelled;
    const call = client.Wait({ begins: true });
    const ended = failure(all(call, () => call.cancel()));
    assert.strictEqual((await ended).code, grpc.status.CANCELLED);
    await cancelled(before + 1);
  },
  async 'many at once'() {
    const calls = [...Array(200).keys()].map((i) => unary('Id', { i }));
    const answers = await Promise.all(calls);
    assert.deepStrictEqual(answers.map(({ value }) => value.asked.i), [...Array(200).keys()]);
  },
};

// The server has learnt of so many calls that nobody waits for.
async function cancelled(wanted) {
  for (let tries = 0; tries < 500; tries += 1) {
    if ((await unary('Cancelled', {})).value.cancelled >= wanted) return;
    await sleep(20);
  }
  assert.fail('the server was not told');
}

async function hammer(seconds) {
  const [ports, errors] = [{}, {}];
  const until = Date.now() + seconds * 1000;
  await Promise.all([...Array(8).keys()].map(async (user) => {
    const of = connect();
    while (Date.now() < until) {
      await unary('Id', {}, { of, pairs: { 'x-user': `user ${user}` } }).then(
        ({ value }) => { ports[value.port] = (ports[value.port] || 0) + 1; },
        (error) => { errors[error.message] = (errors[error.message] || 0) + 1; });
      await sleep(2);
    }
  }));
  console.log(JSON.stringify({ ports, errors }));
}

// The server of each user; an error if it is not always the same.
async function users(number) {
  const ports = {};
  for (const round of [0, 1, 2]) {
    for (let user = 0; user < number; user += 1) {
      const pairs = { 'x-user': `user ${user}` };
      const { value } = await unary('Id', { round }, { pairs, of: connect() });
      assert.strictEqual(ports[user] || value.port, value.port);
      ports[user] = value.port;
    }
  }
  console.log(JSON.stringify({ ports: [...new Set(Object.values(ports))].sort() }));
}

async function main() {
  if (process.env.HAMMER) return hammer(Number(process.env.HAMMER));
  if (process.env.USERS) return users(Number(process.env.USERS));
  for (const [name, check] of Object.entries(checks)) {
    await check();
    console.log('good:', name);
  }
  console.log('all went well');
}

main().then(() => process.exit(0), (error) => {
  console.log('failed:', error.stack);
  process.exit(1);
});
