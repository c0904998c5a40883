// Asks for /stats.json each second and brings the page up to date with it. What it makes is what `_page.py` makes, node
// for node; a test compares. Values get into the page as text and attributes only, never as markup.
"use strict";

const SVG = new Set(["svg", "path", "rect", "title"]);

function h(name, attributes, ...children) {
  const element = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// --- numbers ---

const fixed = (number, digits) => (Math.floor(number * 10 ** digits + 0.5) / 10 ** digits).toFixed(digits);
const count = (number) => fixed(number, 0).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const rate = (number) => (number > 0 && number < 9.95 ? fixed(number, 1) : count(number));

function age(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min\u00a0${whole % 60}\u00a0s`;
  return `${count(Math.floor(whole / 3600))}\u00a0h\u00a0${Math.floor(whole / 60) % 60}\u00a0min`;
}

function time(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.00995) return `${fixed(seconds * 1000, 1)}\u00a0ms`;
  if (seconds < 0.9995) return `${fixed(seconds * 1000, 0)}\u00a0ms`;
  if (seconds < 9.995) return `${fixed(seconds, 2)}\u00a0s`;
  return seconds < 60 ? `${fixed(seconds, 1)}\u00a0s` : age(seconds);
}

// --- pictures ---

function spark(values, span, height, text) {
  const peak = Math.max(0, ...values.filter((value) => value !== null));
  let line = "", area = "", last = null;
  values.forEach((value, index) => {
    const x = span - values.length + index;
    if (value !== null) {
      const y = fixed(height - 1 - (peak ? (value / peak) * (height - 3) : 0), 1);
      line += `${last === null ? "M" : "L"}${x} ${y}`;
      area += `${last === null ? `M${x} ${height}` : ""}L${x} ${y}`;
      last = x;
    } else if (last !== null) {
      area += `L${last} ${height}Z`;
      last = null;
    }
  });
  if (last !== null) area += `L${last} ${height}Z`;
  return h("svg", { viewBox: `0 0 ${span - 1} ${height}`, preserveAspectRatio: "none", role: "img" },
    h("title", {}, text), h("path", { class: "area", d: area }), h("path", { class: "curve", d: line }));
}

function meter(leased, idle, limit) {
  const whole = Math.max(limit ?? 0, leased + idle, 1);
  const used = fixed((leased / whole) * 84, 1), ready = fixed((idle / whole) * 84, 1);
  return h("svg", { class: limit !== null && leased >= limit ? "meter full" : "meter", viewBox: "0 0 84 8", preserveAspectRatio: "none",
    role: "img" },
    h("title", {}, `${leased} in use, ${idle} idle, ${limit ?? "no"} limit`),
    h("rect", { class: "leased", width: used, height: "8" }), h("rect", { class: "idle", x: used, width: ready, height: "8" }));
}

// --- parts ---

function tile(label, value, unit, note, values, span, top, mood) {
  const peak = values.some((each) => each !== null) ? `peak ${top(Math.max(...values.filter((each) => each !== null)))}` : "";
  return h("div", { class: mood ? `tile ${mood}` : "tile" }, h("h2", {}, label, h("span", {}, peak)),
    h("p", { class: "big" }, value, h("small", {}, unit)), h("p", { class: "note" }, note),
    spark(values, span, 40, `${label}, the last five minutes`));
}

function tiles(totals, curves) {
  const share = totals.requests ? (totals.errors / totals.requests) * 100 : 0;
  const full = totals.capacity !== null && totals.leased >= totals.capacity;
  const reused = totals.opened + totals.reused ? (totals.reused / (totals.opened + totals.reused)) * 100 : 0;
  const [number, unit] = totals.p95 === null ? ["–", ""] : time(totals.p95).split("\u00a0", 2);
  return h("div", { class: "tiles" },
    tile("Requests", rate(totals.rate), "per second", `${count(totals.requests)} in 5 min`, curves.rate, curves.span, rate, ""),
    tile("Latency", number, unit ? `${unit} at p95` : "", `p50\u00a0${time(totals.p50)} · p99\u00a0${time(totals.p99)}`, curves.p95, curves.span, time, ""),
    tile("Connections", count(totals.leased), totals.capacity === null ? "in use" : `of ${count(totals.capacity)} in use`,
      `${count(totals.idle)} idle · ${fixed(reused, 0)}\u00a0%\u00a0reused`, curves.leased, curves.span, count, full ? "warn" : ""),
    tile("Waiting", count(totals.waiting + totals.lease_waiters), totals.waiting + totals.lease_waiters === 1 ? "thread" : "threads",
      `${count(totals.lease_waiters)}\u00a0for a session · ${count(totals.sleeping)}\u00a0pausing`, curves.waiting, curves.span, count,
      totals.waiting + totals.lease_waiters ? "warn" : ""),
    tile("Errors", count(totals.errors), "in 5 min", `${fixed(share, 1)}\u00a0% · ${count(totals.retries)}\u00a0retries`, curves.errors,
      curves.span, count, totals.errors ? "bad" : ""));
}

function leaks(found) {
  if (!found.length) return h("section", { class: "leaks", hidden: "" });
  return h("section", { class: "leaks" }, h("h2", {}, "Leaks", h("small", {}, "leases held too long or lost, the latest first")),
    h("div", { class: "card" }, ...found.map((leak) =>
      h("details", {}, h("summary", {}, h("b", {}, h("bdi", {}, leak.identity ?? "a thread’s own or a fresh session")),
        h("small", {}, ` held ${age(leak.held)}, found ${age(leak.ago)} ago`)),
        h("ol", {}, ...leak.places.map((place) => h("li", {}, h("bdi", {}, place))))))));
}

function restraints(host) {
  const held = host.restraints, pills = [];
  if (held.circuit) pills.push(h("span", { class: held.circuit === "open" ? "pill bad" : "pill warn" }, `circuit ${held.circuit}`));
  if (held.cool_down) pills.push(h("span", { class: "pill warn" }, `cools down ${age(held.cool_down)}`));
  if (held.connections) pills.push(h("span", { class: "pill warn" }, `held to ${held.connections} connections`));
  if (held.interval) pills.push(h("span", { class: "pill" }, `one per ${time(held.interval)}`));
  return pills;
}

const num = (label, text, mood) => h("td", { class: mood ? `num ${mood}` : "num", "data-label": label }, text);

function host(each, span) {
  const [, scheme, name, port] = /^([a-z]+:\/\/)?(.*?)(:[0-9]+)?$/s.exec(each.host);
  return h("tr", {},
    h("td", { class: "name" },
      h("bdi", { title: each.host }, h("small", {}, scheme ?? ""), name, h("small", {}, port ?? "")), ...restraints(each)),
    h("td", { class: "room" }, meter(each.leased, each.idle, each.limit)),
    num("In use", count(each.leased), each.leased ? "" : "zero"), num("Idle", count(each.idle), each.idle ? "" : "zero"),
    num("Limit", each.limit === null ? "–" : count(each.limit), each.limit === null ? "zero" : ""),
    num("Waiting", count(each.waiting), each.waiting ? "warn" : "zero"),
    num("Req/s", rate(each.rate), each.rate ? "" : "zero"),
    h("td", { class: "spark" }, spark(each.curve, span, 22, "Requests per second, the last five minutes")),
    num("p50", time(each.p50), each.p50 === null ? "zero" : ""), num("p95", time(each.p95), each.p95 === null ? "zero" : ""),
    num("p99", time(each.p99), each.p99 === null ? "zero" : ""), num("Errors", count(each.errors), each.errors ? "bad" : "zero"),
    num("Retries", count(each.retries), each.retries ? "warn" : "zero"));
}

const HOSTS = [["", "Host"], ["", "Connections"], ["num", "In use"], ["num", "Idle"], ["num", "Limit"], ["num", "Waiting"],
  ["num", "Req/s"], ["", "5 min"], ["num", "p50"], ["num", "p95"], ["num", "p99"], ["num", "Errors"], ["num", "Retries"]];

function head(columns) {
  return h("thead", {}, h("tr", {}, ...columns.map(([kind, text]) => h("th", { class: kind || null, scope: "col" }, text))));
}

function hosts(found, out, span) {
  const number = found.length + out;
  return h("section", { class: "hosts" }, h("h2", {}, "Hosts", h("small", {}, out ? `${count(found.length)} of ${count(number)}` : count(number))),
    h("div", { class: "card" }, found.length
      ? h("table", {}, head(HOSTS), h("tbody", {}, ...found.map((each) => host(each, span))))
      : h("p", { class: "none" }, "No host has been asked yet.")));
}

const LEASES = [["", "Identity"], ["", "Thread"], ["num", "Held for"], ["", "Where it is now"]];

function lease(each) {
  return h("tr", {},
    h("td", { class: each.identity === null ? "name own" : "name" }, h("bdi", { title: each.identity }, each.identity ?? "own or fresh")),
    h("td", { class: "thread" }, h("bdi", {}, each.thread), each.ended ? h("small", {}, " has ended") : ""),
    h("td", { class: "num age" }, age(each.age)), h("td", { class: "where" }, h("bdi", { title: each.where }, each.where)));
}

function leases(found, out) {
  const number = found.length + out;
  return h("section", { class: "leases" }, h("h2", {}, "Leases", h("small", {}, out ? `the ${count(found.length)} longest held of ${count(number)}` : count(number))),
    h("div", { class: "card" }, found.length
      ? h("table", {}, head(LEASES), h("tbody", {}, ...found.map(lease)))
      : h("p", { class: "none" }, "No session is leased.")));
}

function main(stats) {
  const moods = { open: "good", suspended: "warn", closed: "" };
  const mood = moods[stats.pool.state];
  return h("main", {}, h("header", {}, h("h1", {}, h("bdi", {}, stats.pool.name)),
    h("span", { id: "state", class: mood ? `pill ${mood}` : "pill" }, stats.pool.state)),
    tiles(stats.totals, stats.curves), leaks(stats.leaks), hosts(stats.hosts, stats.hosts_left_out, stats.curves.span),
    leases(stats.leases, stats.leases_left_out));
}

// --- life ---

// Make `old` equal to `young`, touching only what differs, so that a selection, a scroll position and an opened
// <details> survive.
function morph(old, young) {
  if (old.nodeName !== young.nodeName) { old.replaceWith(young); return; }
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== young.data) old.data = young.data; return; }
  for (const { name } of [...old.attributes]) if (!young.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of young.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes], after = [...young.childNodes];
  after.forEach((node, index) => { if (index < before.length) morph(before[index], node); else old.append(node); });
  before.slice(after.length).forEach((node) => node.remove());
}

// Without the name and password that the page's own address may have: `fetch` takes none.
const SOURCE = location.origin + location.pathname.replace(/[^/]*$/, "stats.json");
const live = document.getElementById("live");
let answered = Date.now();

async function refresh() {
  try {
    const response = await fetch(SOURCE, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(response.status);
    const stats = await response.json();
    const page = document.querySelector("main");
    morph(page, main(stats));
    page.className = "";
    answered = Date.now();
    live.className = "on";
    live.textContent = "live";
    document.title = `${stats.pool.name} · sessionpool`;
  } catch {
    document.querySelector("main").className = "stale";
    live.className = "away";
    live.textContent = `no answer for ${age((Date.now() - answered) / 1000)}, still trying`;
  }
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", refresh, { once: true }) : refresh()), 1000);
}

refresh();
