// Drives Chromium by its DevTools protocol. usage: node browser.js PROFILE, the browser's --user-data-dir.
// Lines of JSON tell it what to do:
//   {"do":"open","url":…}            goes there; the status of the answer, or the browser's name of the error
//   {"do":"run","script":…}          runs a script in the page, waits for its promise, and has its value
//   {"do":"choose","field":…,"file":…}  puts a file into a field of a form
//   {"do":"picture","file":…,"width":…,"height":…,"scheme":…}  writes a PNG of the page in a window of that size
//   {"do":"responses"}               url, status, protocol and headers of all responses since the last call
//   {"do":"complaints"}              errors of the console and of scripts since the last call
// Each is answered by one line: {"ok":…} or {"error":…}.
'use strict';
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const WebSocket = require('ws');

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// The browser writes its port to a file once it listens.
async function page(profile) {
  for (;;) {
    try {
      const [port] = fs.readFileSync(path.join(profile, 'DevToolsActivePort'), 'utf8').split('\n');
      const targets = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
      return targets.find((target) => target.type === 'page').webSocketDebuggerUrl;
    } catch (error) {
      await pause(50);
    }
  }
}

async function main() {
  const socket = new WebSocket(await page(process.argv[2]), { perMessageDeflate: false });
  await new Promise((done, fail) => socket.on('open', done).on('error', fail));
  const [waiting, events] = [new Map(), { responses: [], complaints: [] }];
  let [number, document, loaded] = [0, null, () => {}];
  const call = (method, params = {}) => new Promise((done, fail) => {
    number += 1;
    waiting.set(number, { done, fail });
    socket.send(JSON.stringify({ id: number, method, params }));
  });
  const heard = {
    'Page.loadEventFired': () => loaded(),
    'Network.responseReceived': ({ type, response }) => {
      const { url, status, protocol, headers } = response;
      if (type === 'Document') document = status;
      events.responses.push({ url, status, protocol, headers });
    },
    'Runtime.exceptionThrown': ({ exceptionDetails }) => events.complaints.push(exceptionDetails.text),
    'Runtime.consoleAPICalled': ({ type, args }) => {
      if (type === 'error') events.complaints.push(args.map((arg) => arg.value || arg.description).join(' '));
    },
    'Log.entryAdded': ({ entry }) => {
      if (entry.level === 'error') events.complaints.push(`${entry.text} ${entry.url || ''}`);
    },
  };
  socket.on('message', (data) => {
    const { id, error, result, method, params } = JSON.parse(data);
    if (!id) return heard[method] && heard[method](params);
    const { done, fail } = waiting.get(id);
    waiting.delete(id);
    if (error) fail(new Error(error.message)); else done(result);
  });
  for (const domain of ['Page', 'Network', 'Runtime', 'Log', 'DOM']) await call(`${domain}.enable`);

  const taken = (name) => events[name].splice(0);
  const commands = {
    open: async ({ url }) => {
      document = null;
      const load = new Promise((done) => { loaded = done; });
      const { errorText } = await call('Page.navigate', { url });
      if (errorText) return errorText;
      await load;
      return document;
    },
    run: async ({ script }) => {
      const { result, exceptionDetails } = await call('Runtime.evaluate', {
        expression: script, awaitPromise: true, returnByValue: true,
      });
      if (exceptionDetails) {
        const { exception, text } = exceptionDetails;
        throw new Error((exception && (exception.description || exception.value)) || text);
      }
      return result.value === undefined ? null : result.value;
    },
    choose: async ({ field, file }) => {
      const { root } = await call('DOM.getDocument');
      const { nodeId } = await call('DOM.querySelector', { nodeId: root.nodeId, selector: field });
      await call('DOM.setFileInputFiles', { nodeId, files: [file] });
      return null;
    },
    picture: async ({ file, width, height, scheme }) => {
      const features = [{ name: 'prefers-color-scheme', value: scheme }];
      await call('Emulation.setEmulatedMedia', { features });
      await call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
      const { data } = await call('Page.captureScreenshot', { format: 'png' });
      fs.writeFileSync(file, Buffer.from(data, 'base64'));
      return null;
    },
    responses: async () => taken('responses'),
    complaints: async () => taken('complaints'),
  };
  console.log('ready');
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      console.log(JSON.stringify({ ok: await commands[command.do](command) }));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error.message) }));
    }
  }
}
main().catch((error) => { console.log(JSON.stringify({ error: String(error) })); process.exit(1); });
