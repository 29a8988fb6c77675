// To be loaded before an application (node --require): puts it in service when it has begun to
// listen, and drains it when PM2 stops it (SIGINT), before it gets SIGTERM.
//
//   LB_BACKEND        where the application listens, as in 127.0.0.1:5000
//   LB_SERVICE        the service of the backend, or several as in web,web/api [the one that has it, else
//                     the only one]
//   LB_AGENT          the program [lb-agent]
//   LB_DRAIN_TIMEOUT  how long known clients may stay [10s]
//
// An application that is written for PM2 alone needs no change: its own "ready" is held back until it is
// in service, and its handlers of SIGINT run after the drain, at SIGTERM.
//
// Without an agent the application starts all the same, and is put in service when there is one.
//
// If the drain is refused, the application ends all the same, as PM2 would kill it. A line in the
// error log and the exit code 1 tell that its clients were not moved before.
'use strict';
const { execFile } = require('child_process');
const net = require('net');

const backend = process.env.LB_BACKEND;
const program = process.env.LB_AGENT || 'lb-agent';
const timeout = process.env.LB_DRAIN_TIMEOUT || '10s';
// Each call names one service, or leaves it to the agent.
const services = (process.env.LB_SERVICE || '').split(',');
delete process.env.LB_SERVICE;

const NO_AGENT = 3; // exit code
const AGAIN = 2000; // ms until it is asked for again
const PATIENCE = 3000; // ms for the application to listen at LB_BACKEND, too

function say(text) {
  console.error(`lb-agent.js: ${backend} ${text}`);
}

function lbAgent(args, then) {
  execFile(program, args, (error, stdout, stderr) => {
    process.stdout.write(stdout);
    // A program that could not be started has said nothing.
    process.stderr.write(error && !stderr ? `lb-agent.js: ${error.message}\n` : stderr);
    then(error);
  });
}

// The same for every service, one after the other; the first error ends it.
function forEach(args, then, [service, ...others] = services) {
  lbAgent(service ? [...args, '--service', service] : args, (error) => {
    if (error || others.length === 0) return then(error);
    forEach(args, then, others);
  });
}

function end() {
  process.kill(process.pid, 'SIGTERM');
}

// Holds back what the application would do too early. Returns what reports "ready" to PM2.
function hold() {
  const send = (process.send || (() => {})).bind(process);
  if (process.send) process.send = (message, ...more) => message === 'ready' || send(message, ...more);
  process.on('newListener', (signal, handler) => {
    if (signal !== 'SIGINT') return;
    process.nextTick(() => {
      process.removeListener('SIGINT', handler);
      // Many applications have one handler for both signals.
      if (process.listeners('SIGTERM').includes(handler)) return;
      process.once('SIGTERM', () => handler.call(process, 'SIGINT', 2));
    });
  });
  let isSent = false;
  return () => {
    if (!isSent) send('ready');
    isSent = true;
  };
}

if (backend) {
  const port = backend.split(':').pop();
  let listens = false;
  let stops = false;

  function enter(isFirst) {
    if (stops) return;
    forEach(['add-backend', backend, '--wait', '30s', '--ensure'], (error) => {
      if (!error) {
        if (!isFirst) say('is in service');
        return ready();
      }
      if (error.code !== NO_AGENT) return say('is NOT IN SERVICE');
      if (isFirst) say('is NOT IN SERVICE until there is an agent');
      ready();
      setTimeout(wait, AGAIN);
    });
  }

  // Asks without a word whether there is an agent.
  function wait() {
    if (stops) return;
    execFile(program, ['status'], (error) => (error ? setTimeout(wait, AGAIN) : enter(false)));
  }

  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (...args) {
    this.once('listening', () => {
      const bound = this.address();
      if (!bound) return;
      if (String(bound.port) === port) {
        listens = true;
        return enter(true);
      }
      setTimeout(() => {
        if (!listens) say(`is NOT IN SERVICE: the application listens on port ${bound.port} instead`);
      }, PATIENCE).unref();
    });
    return listen.apply(this, args);
  };
  process.once('SIGINT', () => {
    stops = true;
    const drain = ['drain-backend', backend, '--timeout', timeout];
    forEach(drain, (error) => {
      // That connections are left when the time is over is no reason not to stop.
      if (!error) return forEach([...drain, '--wait'], end);
      say('stops WITHOUT A DRAIN');
      process.once('exit', () => { process.exitCode = 1; });
      end();
    });
  });
  // Last, as the handler above is not one of the application.
  const ready = hold();
}
