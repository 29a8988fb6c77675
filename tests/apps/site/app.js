// The front end of the site: what its pages do, for the test to call.
'use strict';
const asked = async (path, options) => {
  const answer = await fetch(path, options);
  return { status: answer.status, cache: answer.headers.get('cache-status'), body: await answer.json() };
};

const site = {
  route: location.pathname,
  colour: () => getComputedStyle(document.querySelector('h1')).color,
  login: (user, password) => asked('/api/login', {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ user, password }),
  }),
  me: () => asked('/api/me'),
  prices: async () => {
    const { cache, body } = await asked('/api/prices');
    return { cache, made: body.made, items: body.prices.length };
  },
  // Sends the form with its file, and says what it has itself.
  upload: async () => {
    const form = document.querySelector('#upload');
    const bytes = await form.file.files[0].arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
    const answer = await asked('/api/upload', { method: 'POST', body: new FormData(form) });
    return { status: answer.status, sent: sha256, ...answer.body };
  },
  chat: null,
  transports: [],
  said: [],
  // Resolves once the chat is joined and its connection is a WebSocket. Either may come first.
  join: () => {
    site.chat = io({ reconnectionDelay: 50, reconnectionDelayMax: 200 });
    const { engine } = site.chat.io;
    site.transports = [engine.transport.name];
    site.chat.on('said', (message) => site.said.push(message));
    site.chat.on('disconnect', (reason) => site.transports.push(reason));
    const joined = new Promise((done, fail) => {
      site.chat.on('connect', done);
      site.chat.on('connect_error', fail);
    });
    const upgraded = new Promise((done) => {
      engine.on('upgrade', (transport) => { site.transports.push(transport.name); done(); });
    });
    return Promise.all([joined, upgraded]).then(() => site.transports);
  },
  // Says something and waits until it comes back.
  say: (text) => new Promise((done) => {
    const is = (message) => { if (message.text === text) { site.chat.off('said', is); done(message); } };
    site.chat.on('said', is);
    site.chat.emit('say', text);
  }),
};
