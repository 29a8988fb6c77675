// A login for forward authentication. usage: node auth.js HOST PORT. Prints "listening" once it does.
// /auth lets a session in and renews its cookie, or leads to /login, which takes a name and makes the session.
'use strict';
const crypto = require('crypto');
const express = require('express');

const app = express();
const sessions = new Map();
const begin = (res, user) => {
  const id = crypto.randomUUID();
  sessions.set(id, user);
  res.append('Set-Cookie', `session=${id}; Path=/; HttpOnly`);
};

app.get('/auth', (req, res) => {
  const id = /(?:^|; )session=([^;]+)/.exec(req.headers.cookie || '')?.[1];
  const user = sessions.get(id);
  if (!user) {
    const to = encodeURIComponent(req.headers['x-forwarded-uri']);
    return res.redirect(`/login?to=${to}&method=${req.headers['x-forwarded-method']}`);
  }
  begin(res, user);
  res.set('X-Auth-User', user).send('come in');
});
app.get('/login', (req, res) => res.type('html').send('<form method="post"><input name="user"></form>'));
app.post('/login', express.urlencoded({ extended: false }), (req, res) => {
  begin(res, req.body.user);
  res.redirect(303, req.query.to);
});
app.listen(Number(process.argv[3]), process.argv[2], () => console.log('listening'));
