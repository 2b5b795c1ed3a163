// Asks the supervisor every second and draws what it says. Text only ever goes in as text.
"use strict";
const SECOND = 1000;
const STATES = {ready: "good", starting: "warn", draining: "warn", probation: "warn"};
const BREAKERS = {closed: "good", "half-open": "warn"};
let heard = 0;

function element(tag, classes, ...content) {
  const made = document.createElement(tag);
  made.className = classes;
  made.append(...content.map(item => item instanceof Node ? item : String(item)));
  return made;
}
const byId = id => document.getElementById(id);
const row = (classes, cells) => element("tr", classes, ...cells.map(([kind, text]) => element("td", kind, text)));
const seconds = ms => ms < 120_000 ? `${Math.max(0, Math.round(ms / 1000))} s` : `${Math.round(ms / 60_000)} min`;

function meter(label, part, whole) {
  const bar = document.createElement("meter");
  bar.max = Math.max(1, whole);
  bar.value = part;
  return element("div", "meter", element("span", "", label), bar, element("span", "number", `${part} / ${whole}`));
}

function card(worker) {
  const shown = worker.state === "ready" && worker.standing !== "healthy" ? worker.standing : worker.state;
  const heading = element("b", "", element("span", "", worker.worker_id), element("span", "state", shown));
  const used = worker.kv_blocks_total - worker.kv_blocks_free;
  return element("div", `worker ${STATES[shown] || "bad"}`, heading,
    element("small", "", `${worker.models.join(", ") || "no model"}, ${worker.device}`),
    meter("running", worker.running_requests, worker.max_running_requests || worker.running_requests),
    meter("KV blocks", used, worker.kv_blocks_total),
    element("small", "", `${worker.waiting_requests} waiting, ${Math.round(worker.output_tokens_per_second)} tok/s, ` +
      `${worker.partitions.length} partitions, seen ${worker.age_seconds.toFixed(1)} s ago`));
}

function drawFleet(fleet) {
  byId("supervisor").textContent =
    `${fleet.supervisor}: ${fleet.is_leader ? "acts" : "watches"}, ${fleet.workers.length} workers`;
  const pools = Map.groupBy ? Map.groupBy(fleet.workers, worker => worker.pool) : new Map([["", fleet.workers]]);
  byId("fleet").replaceChildren(...[...pools].flatMap(([pool, workers]) =>
    [element("small", "", pool), element("div", "pool", ...workers.map(card))]));
  byId("breakers").tBodies[0].replaceChildren(...fleet.breakers.map(breaker =>
    row(BREAKERS[breaker.state] || "bad", [["", breaker.kind], ["wide", breaker.name], ["state", breaker.state]])));
  byId("events").tBodies[0].replaceChildren(...fleet.events.slice(0, 30).map(event =>
    row("", [["number", `${seconds(fleet.at_ms - event.occurred_at_ms)} ago`], ["", event.kind],
             ["", event.worker_id], ["wide", event.detail]])));
}

function drawLevels(levels) {
  byId("levels").tBodies[0].replaceChildren(...levels.objectives.map(level =>
    row(level.alert ? "bad" : "good", [["", level.lane], ["", level.tenant], ["", level.objective],
      ["number", level.events], ["number", level.bad], ["number", `${Math.round(level.budget_left * 100)} %`],
      ["number", level.burn["5m"]], ["number", level.burn["60m"]], ["state", level.alert || "fine"]])));
}

function span(entry, total) {
  const bar = element("div", "bar");
  bar.style.left = `${100 * entry.offset_us / total}%`;
  bar.style.width = `${100 * entry.duration_us / total}%`;
  const name = element("span", "", entry.name + (entry.attempt > 1 ? ` (attempt ${entry.attempt})` : ""));
  name.style.paddingLeft = `${entry.depth * .8}rem`;
  return element("div", `span of-${entry.service} ${entry.is_error ? "error" : ""}`,
    element("span", "", `${entry.service} ${entry.instance}`), name,
    element("span", "number", `${(entry.duration_us / 1000).toFixed(1)} ms`), element("div", "track", bar));
}

async function drawRequest(id) {
  const answer = await fetch(`/requests/${encodeURIComponent(id)}/trace`);
  const said = await answer.json();
  byId("told").textContent = answer.ok ? `${said.spans.length} spans` : said.error;
  const spans = said.spans || [];
  const total = Math.max(1, ...spans.map(entry => entry.offset_us + entry.duration_us));
  byId("waterfall").replaceChildren(...spans.map(entry => span(entry, total)));
}

async function ask(path) {
  const answer = await fetch(path, {cache: "no-store", signal: AbortSignal.timeout(2 * SECOND)});
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    const [fleet, levels] = await Promise.all([ask("/fleet"), ask("/slo")]);
    drawFleet(fleet);
    drawLevels(levels);
    heard = Date.now();
  } catch (error) {
    console.warn(error);
  }
  const silent = Date.now() - heard;
  byId("freshness").className = silent > 3 * SECOND ? "stale" : "";
  byId("freshness").textContent = heard === 0 ? "no answer" : silent > 3 * SECOND ? `no answer for ${seconds(silent)}` : "live";
  setTimeout(refresh, SECOND);
}

byId("ask").addEventListener("submit", event => {
  event.preventDefault();
  location.hash = byId("request").value.trim();
});
const shown = () => { if (location.hash.length > 1) { byId("request").value = decodeURIComponent(location.hash.slice(1)); drawRequest(byId("request").value); } };
addEventListener("hashchange", shown);
shown();
refresh();
