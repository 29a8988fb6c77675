// The live page: draws the events that the agent sends. Text comes into the page as text, never as HTML.
'use strict';

const RING = 360;
const SVG = 'http://www.w3.org/2000/svg';
const at = (id) => document.getElementById(id);
let plots = { step: 0, rows: {} };
let source = null;
let states = new Map();

// --- elements

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function make(tag, attributes = {}, ...inner) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inner);
  return node;
}

// The children of `parent`, one for each key in this order; those that are there stay.
function keyed(parent, keys, create) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  keys.forEach((key, place) => {
    let node = known.get(key);
    known.delete(key);
    if (!node) {
      node = create(key);
      node.dataset.key = key;
    }
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] || null);
  });
  known.forEach((node) => node.remove());
  return [...parent.children];
}

// A table in `box`. Columns are [name, class]; a row is [key, cells], and a cell is text or {text, tone, hint, plot}.
function table(box, caption, columns, rows) {
  let grid = box.querySelector('table');
  if (!grid) {
    const heads = columns.map(([name, kind]) => {
      return make('th', { scope: 'col', role: 'columnheader', class: kind || '' }, name);
    });
    const head = make('thead', { role: 'rowgroup' }, make('tr', { role: 'row' }, ...heads));
    const title = make('caption', {}, caption);
    grid = make('table', { role: 'table' }, title, head, make('tbody', { role: 'rowgroup' }));
    box.append(make('div', { class: 'scroll' }, grid));
  }
  const create = () => make('tr', { role: 'row' }, ...columns.map(([name, kind], place) => {
    const attributes = { 'data-label': name, class: kind || '', role: 'cell' };
    if (place) return make('td', attributes);
    return make('th', { ...attributes, scope: 'row', role: 'rowheader' });
  }));
  const lines = keyed(grid.tBodies[0], rows.map(([key]) => key), create);
  rows.forEach(([, cells], place) => cells.forEach((cell, nth) => {
    const node = lines[place].cells[nth];
    if (cell && cell.plot) return plot(node, cell.plot, 'new', 'New a second');
    const { text = '', tone = '', hint = '' } = typeof cell === 'object' ? cell : { text: cell };
    put(node, text);
    const kind = `${columns[nth][1] || ''} ${tone} ${text ? '' : 'empty'}`.trim();
    mark(node, 'class', kind);
    if (hint || node.title) node.title = hint;
  }));
}

// --- words

function number(value, digits = 1) {
  if (value === null || value === undefined) return '–';
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString('en');
  return value.toFixed(digits);
}

const ms = (value) => (value === null || value === undefined ? '–' : `${number(value)} ms`);
const percent = (part) => `${(part * 100).toFixed(1)}%`;

function span(seconds) {
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return '0 s';
  const [name, size] = units[first];
  const [next, small] = units[first + 1] || [];
  const rest = small ? Math.floor((seconds % size) / small) : 0;
  return `${Math.floor(seconds / size)} ${name}${rest ? ` ${rest} ${next}` : ''}`;
}

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let place = 0;
  for (; value >= 1024 && place < 4; place += 1) value /= 1024;
  return `${number(value)} ${units[place]}`;
}

// --- plots

function plot(box, key, part, label) {
  let drawing = box.querySelector('svg');
  if (!drawing) {
    drawing = document.createElementNS(SVG, 'svg');
    for (const [name, value] of [['viewBox', '0 0 360 40'], ['preserveAspectRatio', 'none'], ['role', 'img']]) {
      drawing.setAttribute(name, value);
    }
    drawing.append(document.createElementNS(SVG, 'path'));
    box.append(drawing);
  }
  const points = (plots.rows[key] || {})[part] || [];
  const most = points.reduce((max, value) => Math.max(max, value || 0), 0);
  const first = RING - points.length;
  let line = '';
  let pen = false;
  points.forEach((value, place) => {
    if (value === null) {
      pen = false;
      return;
    }
    const height = most ? 38 - (36 * value) / most : 38;
    // A single point is a short stroke.
    line += `${pen ? 'L' : 'M'}${first + place} ${height.toFixed(1)}`;
    if (!pen) line += 'h.9';
    pen = true;
  });
  mark(drawing.firstChild, 'd', line);
  mark(drawing, 'aria-label', `${label}, last hour: at most ${number(most)}`);
  return most;
}

function take(history) {
  plots = history;
}

// Adds the points of a snapshot. Returns false if some have been missed.
function extend({ step, last }) {
  if (step <= plots.step) return true;
  if (step > plots.step + 1) return false;
  plots.step = step;
  const rows = {};
  for (const [key, [open, fresh, errors, latency]] of Object.entries(last)) {
    const row = plots.rows[key] || { open: [], new: [], errors: [], latency: [] };
    for (const [part, value] of Object.entries({ open, new: fresh, errors, latency })) {
      row[part].push(value);
      if (row[part].length > RING) row[part].shift();
    }
    rows[key] = row;
  }
  plots.rows = rows;
  return true;
}

// --- services

const COLUMNS = [['Backend'], ['State'], ['Share', 'n'], ['Open', 'n'], ['New/s', 'n'], ['Latency', 'n'],
  ['Errors/s', 'n'], ['Total', 'n'], ['Path'], ['Health'], ['Last hour']];

function tone(state) {
  if (state === 'up') return 'good';
  return state === 'draining' || state === 'drained' ? 'warn' : 'bad';
}

function stateOf(backend) {
  let text = backend.state;
  if (backend.down_because && backend.down_because !== backend.state) text += `: ${backend.down_because}`;
  if (backend.drain_seconds_left !== null) {
    text += `, ${span(backend.drain_seconds_left)} left, ${number(backend.active)} open`;
    if (backend.websockets) text += ` (${number(backend.websockets)} WebSockets)`;
    text += backend.clients === 'known' ? ', known clients only' : ', no clients';
  }
  return { text, tone: tone(backend.state) };
}

function healthOf({ health, listening }) {
  if (!health) {
    if (listening === null) return '';
    return listening ? 'listening' : { text: 'not listening', tone: 'bad' };
  }
  let text = `${health.state} for ${span(health.since_seconds)}`;
  if (health.took_ms !== null) text += `, ${ms(health.took_ms)}`;
  if (health.last_error) text += `; ${span(health.last_error_seconds_ago || 0)} ago: ${health.last_error}`;
  return { text, tone: health.state === 'down' ? 'bad' : '', hint: health.check };
}

function makeService(name) {
  const figures = [['new', ''], ['open', 'Open'], ['latency', 'Latency p99'], ['errors', 'Errors/s']];
  const drawn = figures.map(([part, label]) => {
    const caption = make('figcaption', {}, make('span', {}, label), make('b'));
    return make('figure', { 'data-part': part }, caption);
  });
  const title = make('h2', {}, `${name} `, make('small'));
  return make('section', {}, title, make('p', { class: 'soft' }), make('div', { class: 'plots' }, ...drawn),
    make('div', { class: 'backends' }));
}

function describe(service) {
  const { stickiness, counters } = service;
  const words = [`sticky by ${stickiness.by}${stickiness.name ? ` ${stickiness.name}` : ''}`];
  words.push(`${number(counters.affinity)} by affinity`, `${number(counters.slot)} by slot`);
  words.push(`${number(counters.next)} next`, `${number(counters.refused)} refused`);
  words.push(`${number(counters.denied)} denied`, `${number(counters.capped)} above client_connections`);
  if (service.all_down) words.push(`all backends are down: ${service.all_down}`);
  if (service.auth) words.push(`${number(service.auth.refused)} without access`);
  return words.join(' · ');
}

function drawService(section, service, rates) {
  const isHttp = service.mode === 'http';
  put(section.querySelector('small'), `${service.mode} · ${service.listen.join(' ')}`);
  put(section.querySelector('p'), describe(service));
  const own = rates.get(service.name) || {};
  for (const figure of section.querySelectorAll('figure')) {
    const { part } = figure.dataset;
    figure.hidden = part === 'latency' && !isHttp;
    const [label, value] = figure.firstChild.children;
    if (part === 'new') put(label, isHttp ? 'Requests/s' : 'New/s');
    const most = plot(figure, service.name, part, label.textContent);
    put(value, part === 'latency' ? ms(own.latency) : number(own[part]));
    value.title = `at most ${number(most)} in the last hour`;
  }
  const rows = service.backends.map((backend) => {
    const key = `${service.name} ${backend.address}`;
    const rate = rates.get(key) || {};
    const share = ['no listener', 'drained', 'down'].includes(backend.state) ? '–' : percent(backend.share);
    const path = { text: backend.path, hint: backend.why };
    const latency = isHttp ? [ms(rate.latency)] : [];
    return [key, [backend.address, stateOf(backend), share, number(backend.active), number(rate.new), ...latency,
      number(rate.errors), number(backend.connections), path, healthOf(backend), { plot: key }]];
  });
  const columns = COLUMNS.filter(([name]) => isHttp || name !== 'Latency');
  table(section.querySelector('.backends'), `Backends of ${service.name}`, columns, rows);
}

function drawServices(services, rows) {
  const rates = new Map(rows.map((row) => [row.key, row]));
  const sections = keyed(at('services'), services.map(({ name }) => name), makeService);
  services.forEach((service, place) => drawService(sections[place], service, rates));
  const options = keyed(document.forms.lookup.elements.service, services.map(({ name }) => name),
    (name) => make('option', {}, name));
  options.forEach((option) => { option.value = option.dataset.key; });
}

// Says changes of states, for screen readers.
function announce(services) {
  const now = new Map(services.flatMap(({ name, backends }) => {
    return backends.map(({ address, state }) => [`${name} ${address}`, state]);
  }));
  const news = [];
  if (states.size) {
    now.forEach((state, key) => { if (states.get(key) !== state) news.push(`${key} is ${state}`); });
    states.forEach((_, key) => { if (!now.has(key)) news.push(`${key} is gone`); });
  }
  states = now;
  if (news.length) put(at('news'), news.slice(0, 5).join('. '));
}

// --- the other parts

function part(id, title, columns, rows) {
  const section = at(`s-${id}`);
  section.hidden = !rows.length;
  if (rows.length) table(at(id), title, columns, rows);
}

function drawLimits(services) {
  const rows = services.flatMap((service) => (service.limits || []).map((limit) => {
    const most = limit.rate ? `${limit.rate}, burst ${limit.burst}` : `${limit.concurrent} under way`;
    const mode = limit.dry_run ? 'counts only' : 'refuses';
    const above = limit.dry_run ? limit.would_refuse : limit.refused;
    return [`${service.name} ${limit.name}`,
      [limit.name, service.name, limit.path, limit.key, most, mode, number(above)]];
  }));
  part('limits', 'Limits', [['Limit'], ['Service'], ['Path'], ['Key'], ['Most'], ['Mode'], ['Above it', 'n']], rows);
}

function drawBans(bans) {
  const rows = bans.map((ban) => [`${ban.prefix} ${ban.service || ''}`, [ban.prefix, ban.service || 'all',
    ban.left_seconds === null ? 'for ever' : span(ban.left_seconds), ban.reason || '']]);
  part('bans', 'Bans', [['Clients'], ['Service'], ['Left'], ['Reason']], rows);
}

function drawCertificates(services, now) {
  const rows = services.flatMap((service) => (service.tls ? service.tls.certificates : []).map((found) => {
    const end = found.not_after_unix_seconds;
    const left = end === null ? null : end - now / 1000;
    const text = left === null ? 'no file yet' : left < 0 ? `ended ${span(-left)} ago` : `ends in ${span(left)}`;
    const state = left === null || left < 0 ? 'bad' : left < 14 * 86400 ? 'warn' : 'good';
    const hint = end === null ? '' : new Date(end * 1000).toISOString();
    return [`${service.name} ${found.file}`, [found.names.join(', ') || found.file, service.name,
      { text, tone: state, hint }, { text: found.problem || '', tone: 'bad' }, found.file]];
  }));
  part('certificates', 'Certificates', [['Names'], ['Service'], ['Validity'], ['Problem'], ['File']], rows);
}

function drawCache(services, store) {
  const rows = services.filter(({ cache }) => cache).map(({ name, cache }) => {
    const memory = cache.hit + cache.stale + cache.revalidated;
    const all = memory + cache.miss;
    const counts = [cache.hit, cache.stale, cache.revalidated, cache.miss].map((count) => number(count));
    return [name, [name, all ? percent(memory / all) : '–', ...counts]];
  });
  part('cache', 'Response cache', [['Service'], ['From memory', 'n'], ['Hit', 'n'], ['Stale', 'n'],
    ['Revalidated', 'n'], ['Miss', 'n']], rows);
  if (store) {
    put(at('store'), `${bytes(store.bytes)} of ${bytes(store.capacity)}, ${number(store.entries)} entries`);
  }
}

function drawEvents(events, now) {
  const seen = new Map();
  const rows = [...events].reverse().map((event) => {
    // Lines of one millisecond may be alike.
    const same = `${event.at_unix_ms} ${event.message}`;
    seen.set(same, (seen.get(same) || 0) + 1);
    const tones = { ERROR: 'bad', WARN: 'warn' };
    const age = `${span(Math.max(0, Math.round((now - event.at_unix_ms) / 1000)))} ago`;
    return [`${same} ${seen.get(same)}`, [{ text: age, hint: new Date(event.at_unix_ms).toISOString() },
      { text: event.level.toLowerCase(), tone: tones[event.level] || '' }, event.message]];
  });
  table(at('events'), 'Last events, the latest first', [['Age'], ['Level'], ['Event']], rows);
}

function draw(snapshot) {
  const { agent, services } = snapshot.status;
  const { process } = snapshot;
  put(at('facts'), [`version ${agent.version}`, `pid ${agent.pid}`, `up ${span(agent.uptime_seconds)}`,
    `data plane ${agent.data_plane}`, bytes(process.resident_bytes), `${number(process.open_fds)} open files`,
    agent.config || 'no configuration file'].join(' · '));
  const notes = keyed(at('notes'), agent.notes, () => make('li'));
  notes.forEach((note) => put(note, note.dataset.key));
  drawServices(services, snapshot.rows);
  drawLimits(services);
  drawBans(snapshot.bans);
  drawCertificates(services, snapshot.at_unix_ms);
  drawCache(services, agent.cache);
  drawEvents(snapshot.events, snapshot.at_unix_ms);
  announce(services);
  say(agent.degraded ? 'degraded' : 'live', agent.degraded ? 'bad' : 'good');
}

// --- the connection

function say(text, kind) {
  put(at('state'), text);
  mark(at('state'), 'class', `pill ${kind}`);
}

function close() {
  if (source) source.close();
  source = null;
}

function connect() {
  close();
  source = new EventSource('events');
  source.addEventListener('history', ({ data }) => take(JSON.parse(data)));
  source.addEventListener('snapshot', ({ data }) => {
    const snapshot = JSON.parse(data);
    if (!extend(snapshot)) return connect();
    draw(snapshot);
  });
  source.onerror = () => {
    say('no connection, trying again', 'bad');
    // An answer that is no stream ends the source for good.
    if (source && source.readyState === EventSource.CLOSED) {
      close();
      setTimeout(() => { if (!source && !document.hidden) connect(); }, 3000);
    }
  };
}

// A page that nobody sees takes no snapshots.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    close();
    say('paused', 'warn');
  } else if (!source) {
    connect();
  }
});

document.forms.lookup.addEventListener('submit', async (event) => {
  event.preventDefault();
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) {
    if (value.trim()) query.set(name, value.trim());
  }
  try {
    const answer = await (await fetch(`lookup?${query}`)).json();
    put(at('found'), answer.text || answer.error);
  } catch (error) {
    put(at('found'), `The agent does not answer: ${error.message}`);
  }
});

connect();
