// To be loaded before an application (node --require): puts it in service when it has begun to
// listen, and drains it when PM2 stops it (SIGINT), before it gets SIGTERM.
//
//   LB_BACKEND        where the application listens, as in 127.0.0.1:5000
//   LB_AGENT          the program [lb-agent]
//   LB_DRAIN_TIMEOUT  how long known clients may stay [10s]
'use strict';
const { execFile } = require('child_process');
const net = require('net');

const backend = process.env.LB_BACKEND;
const program = process.env.LB_AGENT || 'lb-agent';
const timeout = process.env.LB_DRAIN_TIMEOUT || '10s';

function lbAgent(args, then) {
  execFile(program, args, (error, stdout, stderr) => {
    process.stdout.write(stdout);
    process.stderr.write(stderr);
    then(error);
  });
}

if (backend) {
  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (...args) {
    this.once('listening', () => {
      const bound = this.address();
      if (!bound || String(bound.port) !== backend.split(':').pop()) return;
      lbAgent(['add-backend', backend, '--wait', '30s', '--ensure'], (error) => {
        if (!error && process.send) process.send('ready');
      });
    });
    return listen.apply(this, args);
  };
  process.once('SIGINT', () => {
    // That connections are left when the time is over is no reason not to stop.
    lbAgent(['drain-backend', backend, '--timeout', timeout, '--wait'], () => {
      process.kill(process.pid, 'SIGTERM');
    });
  });
}
