// The web application as the documentation of PM2 has it: its port is in PORT, SIGINT ends it, and it calls
// itself "ready" early, half a second before it listens.
'use strict';
process.env.END_AT = 'SIGINT';
process.argv[2] = '127.0.0.1';
process.argv[3] = process.env.PORT;
process.send('ready');
setTimeout(() => require('./server.js'), 500);
