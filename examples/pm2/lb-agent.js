// To be loaded before an application (node --require): puts it in service when it has begun to
// listen, and drains it when PM2 stops it (SIGINT), before it gets SIGTERM.
//
//   LB_BACKEND        where the application listens, as in 127.0.0.1:5000
//   LB_SERVICE        the service of the backend [the one that has it, else the only one]
//   LB_AGENT          the program [lb-agent]
//   LB_DRAIN_TIMEOUT  how long known clients may stay [10s]
//
// An application that is written for PM2 alone needs no change: its own "ready" is held back until it is
// in service, and its handlers of SIGINT run after the drain, at SIGTERM.
//
// If the drain is refused, the application ends all the same, as PM2 would kill it. A line in the
// error log and the exit code 1 tell that its clients were not moved before.
'use strict';
const { execFile } = require('child_process');
const net = require('net');

const backend = process.env.LB_BACKEND;
const program = process.env.LB_AGENT || 'lb-agent';
const timeout = process.env.LB_DRAIN_TIMEOUT || '10s';

function lbAgent(args, then) {
  execFile(program, args, (error, stdout, stderr) => {
    process.stdout.write(stdout);
    // A program that could not be started has said nothing.
    process.stderr.write(error && !stderr ? `lb-agent.js: ${error.message}\n` : stderr);
    then(error);
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
  return () => send('ready');
}

if (backend) {
  const drain = ['drain-backend', backend, '--timeout', timeout];
  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (...args) {
    this.once('listening', () => {
      const bound = this.address();
      if (!bound || String(bound.port) !== backend.split(':').pop()) return;
      lbAgent(['add-backend', backend, '--wait', '30s', '--ensure'], (error) => {
        if (error) console.error(`lb-agent.js: ${backend} is NOT IN SERVICE`);
        else ready();
      });
    });
    return listen.apply(this, args);
  };
  process.once('SIGINT', () => {
    lbAgent(drain, (error) => {
      // That connections are left when the time is over is no reason not to stop.
      if (!error) return lbAgent([...drain, '--wait'], end);
      console.error(`lb-agent.js: ${backend} stops WITHOUT A DRAIN`);
      process.once('exit', () => { process.exitCode = 1; });
      end();
    });
  });
  const ready = hold();
}
