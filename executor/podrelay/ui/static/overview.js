// The overview: what happens now, read every few seconds, and the last 24 hours as plots.
"use strict";

const NOW_MS = 5000;
const HISTORY_MS = 60000;
const STEPS = {
  created: ["Hand-over to pod created", "launchers, API server"],
  started: ["Pod created to started", "nodes, images"],
  reported: ["Ended to reported", "watcher, to the second"],
};
const place = (id) => document.getElementById(id);
let cluster = new URLSearchParams(location.search).get("cluster") ?? "default";

// --- now --------------------------------------------------------------------------------------------------------------
function tile(title, value, note, kind) {
  const parts = [el("span", { class: "title" }, title), el("span", { class: "value" }, value), el("span", { class: "note" }, note ?? "")];
  return el("li", { class: kind }, parts);
}

function oldest(found) {
  const ages = found.map(({ oldest_s }) => oldest_s).filter((age) => age !== null && age !== undefined);
  return ages.length ? `oldest ${seconds(Math.max(...ages))}` : "";
}

function percent(part) {
  return part === null || part === undefined ? "–" : `${Math.round(100 * part)} %`;
}

function tiles({ queues, waits, pods, launchers, watcher, schedulers, warm }) {
  const launches = Object.values(queues).filter((queue) => queue.kind !== "cleanup");
  const waiting = launches.reduce((sum, queue) => sum + queue.queued + queue.waiting, 0);
  const alive = launchers.filter((launcher) => launcher.alive);
  const inFlight = alive.reduce((sum, launcher) => sum + (launcher.in_flight ?? 0), 0);
  const limit = alive.reduce((sum, launcher) => sum + (launcher.limit ?? 0), 0);
  const unread = schedulers.reduce((sum, scheduler) => sum + (scheduler.unread ?? 0), 0);
  const listed = watcher.event_s_ago ?? watcher.listed_s_ago;
  return [
    tile("Waiting", count(waiting), waiting ? oldest([...launches, ...waits]) : ""),
    tile("Starting", count(pods.starting), "pods"),
    tile("Running", count(pods.running), "pods"),
    tile("Ending", count(pods.ending), "pods"),
    ...(warm ? [tile("Warm pods", count(warm.idle), `idle, hit rate ${percent(warm.hit_rate)}`)] : []),
    tile("Launchers", count(alive.length), limit ? `${count(inFlight)} of ${count(limit)} in flight` : "", alive.length ? "" : "bad"),
    tile("Watcher", watcher.leader ? "leads" : "none", watcher.leader ? `last event ${seconds(listed)} ago` : "", watcher.leader ? "" : "bad"),
    tile("Unread results", count(unread), schedulers.length === 1 ? "1 scheduler" : `${schedulers.length} schedulers`),
  ];
}

function example({ task, example: launch }) {
  if (!task) return launch && ["for example ", launch];
  const { dag_id, task_id, map_index } = task;
  return ["for example ", link(taskPath(task), null, `${dag_id}.${task_id}${map_index >= 0 ? `[${map_index}]` : ""}`)];
}

function waitsCard({ waits }) {
  if (!waits.length) return card("What waits, and why", "", empty("Nothing waits."));
  const reason = (wait) => [
    el("strong", {}, wait.reason || "Waiting"), wait.message && el("span", { class: "message" }, wait.message),
    el("span", { class: "message" }, example(wait)),
  ];
  const columns = [
    ["Reason", "", reason],
    ["Launches", "number", (wait) => count(wait.count)],
    ["Oldest", "number", (wait) => seconds(wait.oldest_s)],
  ];
  return card("What waits, and why", "", table("What waits, by reason", columns, waits));
}

function queuesCard({ queues }) {
  const rows = Object.entries(queues);
  const columns = [
    ["Queue", "", ([name, queue]) => el("span", { title: name }, queueTitle(name, queue))],
    ["Queued", "number", ([, queue]) => count(queue.queued)],
    ["Active", "number", ([, queue]) => count(queue.started)],
    ["Waiting", "number", ([, queue]) => count(queue.waiting)],
    ["Failed", "number", ([, queue]) => count(queue.failed)],
    ["Oldest", "number", ([, queue]) => seconds(queue.oldest_s)],
  ];
  return card("Queues", "", table("Queues", columns, rows));
}

function queueTitle(name, { kind, priority }) {
  if (kind === "cleanup") return "Clean-up";
  const owner = name.split(".by-")[1];
  return `Launch, priority ${priority.replace("p", "") || 1}${owner ? `, scheduler ${owner}` : ""}`;
}

function launcherState(launcher) {
  if (!launcher.alive) return el("span", { class: "badge bad" }, `silent for ${seconds(launcher.last_update_s_ago)}`);
  if (launcher.draining) return el("span", { class: "badge" }, "draining");
  if (launcher.throttled_s) return el("span", { class: "badge warn", title: launcher.throttled_why }, `paused for ${seconds(launcher.throttled_s)}`);
  return el("span", { class: "badge good" }, launcher.state);
}

function launchersCard({ launchers }) {
  if (!launchers.length) return card("Launchers", "", empty("None. Start one: airflow podrelay launcher"));
  const columns = [
    ["Launcher", "name", (launcher) => launcher.name],
    ["State", "", launcherState],
    ["In flight", "number", (launcher) => (launcher.limit ? `${count(launcher.in_flight)} / ${count(launcher.limit)}` : "–")],
    ["Pods/s", "number extra", (launcher) => rate(launcher.created_per_s)],
    ["p50", "number", (launcher) => seconds(launcher.creation_p50_s)],
    ["Version", "extra", (launcher) => launcher.version || "–"],
  ];
  return card("Launchers", "p50: of the last creations", table("Launchers", columns, launchers));
}

function watcherCard({ watcher, schedulers }) {
  const ago = (value) => (value === null || value === undefined ? "never" : `${seconds(value)} ago`);
  const rows = [{ name: watcher.leader || "none leads", ...watcher, kind: "Watcher" }];
  const columns = [
    ["Process", "", ({ kind }) => kind],
    ["Name", "name", ({ name }) => name],
    ["Knows", "number extra", ({ kind, pods, launches }) => (kind === "Watcher" ? `${count(pods)} pods` : `${count(launches)} launches`)],
    ["Last sign", "number", ({ kind, event_s_ago, listed_s_ago, last_update_s_ago }) => ago(kind === "Watcher" ? event_s_ago ?? listed_s_ago : last_update_s_ago)],
    ["Behind", "number", ({ kind, lag_s, unread }) => (kind === "Watcher" ? seconds(lag_s) : `${count(unread)} results`)],
    ["Version", "extra", ({ version }) => version || "–"],
  ];
  const all = [...rows, ...schedulers.map((scheduler) => ({ ...scheduler, kind: "Scheduler" }))];
  return card("Watcher and schedulers", "", table("Watcher and schedulers", columns, all));
}

// A launch looks for a warm pod of its shape, which a hash of the pod's description names.
function warmCards({ warm }) {
  if (!warm) return [];
  const state = (shape) => (shape.off_s ? el("span", { class: "badge warn", title: shape.off_why }, `off for ${seconds(shape.off_s)}`) : "");
  const columns = [
    ["Shape", "name", (shape) => [shape.shape, " ", state(shape)]],
    ["Idle", "number", (shape) => count(shape.idle)],
    ["Starting", "number", (shape) => count(shape.starting)],
    ["Hits", "number extra", (shape) => count(shape.hits)],
    ["Misses", "number extra", (shape) => count(shape.misses)],
    ["Hit rate", "number", (shape) => percent(shape.hit_rate)],
    ["Ready after", "number extra", (shape) => (shape.ready_s === null ? "–" : seconds(shape.ready_s))],
  ];
  const note = `${count(warm.idle)} idle, ${count(warm.starting)} starting, at most ${count(warm.most)}`;
  return [card("Warm pods", note, warm.shapes.length ? table("Warm pods, by shape", columns, warm.shapes) : empty("No launch has had a shape yet."))];
}

function problems(sentences) {
  if (!sentences.length) return [el("p", { class: "state good" }, "No problem found.")];
  return [el("ul", { class: "state warn" }, sentences.map((sentence) => el("li", {}, sentence)))];
}

// Pauses are normal, and what stands in the quarantine is nobody's launch: shown where there is any.
function otherCards({ throttle, quarantine, quarantine_reasons }) {
  const cards = [];
  if (throttle.length) cards.push(card("Pauses", "", el("ul", {}, throttle.map((pause) => el("li", {}, pause)))));
  if (quarantine) {
    const columns = [["Reason", "", ([reason]) => reason], ["Entries", "number", ([, entries]) => count(entries)]];
    const rows = Object.entries(quarantine_reasons);
    cards.push(card("Quarantine", `${count(quarantine)} entries`, table("Quarantine, by reason", columns, rows)));
  }
  return cards;
}

function showNow(found) {
  const { overview } = found;
  place("scope").textContent = `deployment ${overview.deployment}${found.clusters.length > 1 ? "" : `, cluster ${overview.cluster}`}`;
  place("problems").replaceChildren(...problems(found.problems));
  place("tiles").replaceChildren(...tiles(overview));
  const work = el("div", { class: "column" }, waitsCard(overview), warmCards(overview), otherCards(overview));
  const processes = el("div", { class: "column" }, queuesCard(overview), launchersCard(overview), watcherCard(overview));
  place("tables").replaceChildren(work, processes);
  showClusters(found.clusters);
  showDashboard(found.dashboard_url);
}

function showClusters(clusters) {
  const label = place("clusters");
  label.hidden = clusters.length < 2;
  const select = label.querySelector("select");
  if (select.options.length === clusters.length) return;
  select.replaceChildren(...clusters.map((name) => el("option", { value: name, selected: name === cluster }, name)));
  select.onchange = () => {
    cluster = select.value;
    refreshNow();
    refreshHistory();
  };
}

function showDashboard(url) {
  const anchor = place("dashboard");
  anchor.hidden = !url;
  if (!url || anchor.href) return;
  const made = link(url, "_blank", "rq-dashboard");
  made.id = "dashboard";
  anchor.replaceWith(made);
}

// --- the last 24 hours ------------------------------------------------------------------------------------------------
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
let plots = [];

// One small plot; `series` are [label, values, color, filled, format].
function panel(title, note, summary, at, series, format, bars) {
  const box = el("div", { class: "plot", role: "img", "aria-label": `${title}: ${summary}. The table below has the figures.` });
  const legend = el("ul", { class: "legend" }, series.map(([label, , name]) => {
    const mark = el("i");
    mark.style.background = color(name);
    return el("li", {}, mark, label);
  }));
  const heading = el("h3", {}, title, el("span", { class: "note" }, note));
  const element = el("section", { class: "card panel" }, heading, el("p", { class: "summary" }, summary), box, series.length > 1 && legend);
  return { element, box, at, series, format, bars };
}

function draw({ box, at, series, format, bars }) {
  const axis = { stroke: color("muted"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const options = {
    width: box.clientWidth,
    height: 150,
    legend: { show: false },
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    padding: [8, 8, 0, 0],
    axes: [
      { ...axis, grid: { show: false }, space: 60, size: 24, values: (_, ticks) => ticks.map((tick) => clock(new Date(tick * 1000))) },
      { ...axis, size: 52, space: 32, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0" : format(tick))) },
    ],
    scales: { x: { time: true, range: [at[0], at[at.length - 1] + 300] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    series: [{}, ...series.map(([label, , name, filled]) => ({
      label, stroke: color(name), width: 1.5, fill: filled ? `${color(name)}55` : undefined, points: { show: !bars, size: 4, fill: color(name), filter: alone }, spanGaps: false,
      paths: bars ? uPlot.paths.bars({ size: [1, 100] }) : undefined,
    }))],
    hooks: { setCursor: [(plot) => tip(plot, box, series, format)] },
  };
  return new uPlot(options, [at, ...series.map(([, values]) => values)], box);
}

// A value without neighbours would be a line without length: it is drawn as a point.
function alone(plot, series) {
  const values = plot.data[series];
  const missing = (at) => values[at] === null || values[at] === undefined;
  return values.flatMap((_, at) => (!missing(at) && missing(at - 1) && missing(at + 1) ? [at] : []));
}

function tip(plot, box, series, format) {
  let bubble = box.querySelector(".tip");
  const { idx, left } = plot.cursor;
  if (idx === null || idx === undefined || left < 0) {
    bubble?.remove();
    return;
  }
  if (!bubble) {
    bubble = el("div", { class: "tip", "aria-hidden": "true" });
    box.append(bubble);
  }
  const from = new Date(plot.data[0][idx] * 1000);
  const lines = series.map(([label, values], number) => el("div", {}, `${label}: ${exact(values, plot.data[number + 1][idx], series, number, idx, format)}`));
  bubble.replaceChildren(el("b", {}, clock(from)), ...lines);
  bubble.style.left = `${Math.min(Math.max(0, left + 40), Math.max(0, box.clientWidth - bubble.offsetWidth))}px`;
}

// Stacked series hold sums: the figure of one is its own values.
const exact = (values, plotted, series, number, idx, format) => format(series[number][4] ? series[number][4][idx] : plotted);

function panels({ at_s, started, ended, failed, throttled_s, steps, day }) {
  const failures = Object.entries(failed).filter(([kind, values]) => kind !== "other" || values.some(Boolean));
  // Each is drawn from the axis to the sum of those before it: the highest first, so that the lower ones cover it.
  const sums = [];
  for (const [, values] of failures) sums.push(values.map((value, at) => value + (sums.at(-1)?.[at] ?? 0)));
  const stacked = failures.map(([kind, values], place) => [kind, sums[place], `failed-${kind}`, true, values]).reverse();
  const launches = `${count(day.started)} started, ${count(day.succeeded)} succeeded, ${count(day.failed)} failed`;
  const byClass = failures.map(([kind]) => `${count(day.failed_by_class[kind])} ${kind}`).join(", ");
  const of = (step) => `p50 ${seconds(day.steps[step].p50)}, p95 ${seconds(day.steps[step].p95)}`;
  return [
    panel("Launches", "per minute", launches, at_s, [["started", started, "first", true], ["ended", ended, "second", false]], rate),
    panel("Failures", "by class, in 5 minutes", day.failed ? byClass : "none", at_s, stacked, rate, true),
    panel("Throttled", "by the API server, in 5 minutes", day.throttled_s ? `${seconds(day.throttled_s)} in all` : "never", at_s, [["throttled", throttled_s, "warn", true]], seconds, true),
    ...Object.entries(STEPS).map(([step, [title, note]]) =>
      panel(title, note, of(step), at_s, [["p95", steps[step].p95, "second", false], ["p50", steps[step].p50, "first", false]], seconds)),
  ];
}

function hours({ at_s, started, ended, failed, throttled_s, steps }) {
  const rows = [];
  for (let end = at_s.length; end > 0; end -= 12) {
    const part = (values) => values.slice(end - 12, end).filter((value) => value !== null);
    const sum = (values) => part(values).reduce((total, value) => total + value, 0);
    const worst = (values) => (part(values).length ? Math.max(...part(values)) : null);
    rows.push({ from: new Date(at_s[end - 12] * 1000), started: sum(started) * 5, ended: sum(ended) * 5,
      failed: Object.values(failed).reduce((total, values) => total + sum(values), 0), throttled: sum(throttled_s),
      ...Object.fromEntries(Object.keys(STEPS).map((step) => [`${step}_p95`, worst(steps[step].p95)])) });
  }
  const columns = [
    ["From", "number", (row) => clock(row.from)],
    ["Started", "number", (row) => count(Math.round(row.started))],
    ["Ended", "number", (row) => count(Math.round(row.ended))],
    ["Failed", "number", (row) => count(row.failed)],
    ["Throttled", "number", (row) => (row.throttled ? seconds(row.throttled) : "–")],
    ["Created, worst p95", "number", (row) => seconds(row.created_p95)],
    ["Started, worst p95", "number", (row) => seconds(row.started_p95)],
    ["Reported, worst p95", "number", (row) => seconds(row.reported_p95)],
  ];
  return table("The last 24 hours, by hour", columns, rows);
}

let history = null;

function showHistory() {
  if (!history) return;
  plots.forEach((plot) => plot.destroy());
  const made = panels(history);
  place("panels").replaceChildren(...made.map(({ element }) => element));
  plots = made.map(draw);
  place("hours").querySelector(".scroll").replaceChildren(hours(history));
}

// --- refreshing -------------------------------------------------------------------------------------------------------
let shownAt = 0;
const errors = { now: "", history: "" };

function noteErrors(which, found) {
  errors[which] = found.error ?? "";
  notice(errors.now || errors.history);
}

async function refreshNow() {
  if (document.hidden) return;
  const found = await read(`api/now?cluster=${encodeURIComponent(cluster)}`);
  noteErrors("now", found);
  place("now").removeAttribute("aria-busy");
  place("now").classList.toggle("stale", Boolean(found.error));
  if (found.error) return;
  shownAt = Date.now();
  showNow(found);
}

async function refreshHistory() {
  if (document.hidden) return;
  const found = await read(`api/history?cluster=${encodeURIComponent(cluster)}`);
  noteErrors("history", found);
  place("history").removeAttribute("aria-busy");
  if (found.error) return;
  history = found.history;
  showHistory();
}

function showAge() {
  place("read").textContent = shownAt ? `read ${Math.max(1, Math.round((Date.now() - shownAt) / 1000))} s ago` : "";
}

refreshNow();
refreshHistory();
setInterval(refreshNow, NOW_MS);
setInterval(refreshHistory, HISTORY_MS);
setInterval(showAge, 1000);
document.addEventListener("visibilitychange", () => document.hidden || (refreshNow(), refreshHistory()));
document.addEventListener("theme", showHistory);
let width = 0;
new ResizeObserver(([entry]) => {
  if (Math.abs(entry.contentRect.width - width) < 1) return;
  width = entry.contentRect.width;
  showHistory();
}).observe(place("panels"));
