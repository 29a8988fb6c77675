// Four copies of an application behind lb-agent, under PM2. Start them, and restart them one after
// the other without losing a request:
//
//   pm2 start ecosystem.config.js
//   for port in 5000 5001 5002 5003; do pm2 restart app-$port; done
//
// Change `script` (or set APP_SCRIPT). PM2 has to run as root, or as a member of the group lb-agent.
'use strict';
const path = require('path');

const ports = [5000, 5001, 5002, 5003];

module.exports = {
  apps: ports.map((port) => ({
    name: `app-${port}`,
    script: process.env.APP_SCRIPT || '/srv/app/server.js',
    // The port for the application is in PORT, which most read, and among the arguments.
    args: `127.0.0.1 ${port}`,
    // One process for each port. In "cluster" mode all would share one: PM2 deals connections out in
    // turn, and no client stays with its process.
    exec_mode: 'fork',
    // Tells lb-agent of the start and of the stop.
    node_args: `--require ${path.join(__dirname, 'lb-agent.js')}`,
    env: { PORT: port, LB_BACKEND: `127.0.0.1:${port}` },
    // A start is over when lb-agent.js says "ready": the copy listens and is in service.
    wait_ready: true,
    listen_timeout: 30000,
    // Longer than the drain, and what the application takes to end.
    kill_timeout: 30000,
  })),
};
