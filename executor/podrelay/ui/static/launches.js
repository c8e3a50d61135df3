// The launches of one task instance: what became of each, and how long each step took.
"use strict";

const STEP = {
  offered: "Handed over", claimed: "Claimed by a launcher", created: "Pod created", scheduled: "Pod scheduled",
  started: "Container started", finished: "Container ended", reported: "End reported", acknowledged: "Taken by the scheduler",
};
const FIELD = {
  start: "Started in", pod: "Pod", namespace: "Namespace", node: "Node", launcher: "Launcher", queue: "Queue", owner: "Scheduler", cluster: "Cluster",
};
const CAUSE = {
  application: "Caused by the task itself.", configuration: "Caused by its image, template or Secret: only a change helps.",
  infrastructure: "Caused by the platform: another try may succeed.",
};
const parameters = new URLSearchParams(location.search);

// Each step's bar begins where the last one ended. Kubernetes rounds to seconds: a step may seem to end before it began.
function timeline(steps) {
  const first = steps[0].at_s;
  const ends = [];
  for (const { at_s } of steps) ends.push(Math.max(ends.at(-1) ?? first, at_s));
  const whole = Math.max(0.001, ends.at(-1) - first);
  const bar = (step) => {
    const place = steps.indexOf(step);
    const begin = (100 * ((ends[place - 1] ?? first) - first)) / whole;
    const part = el("span", { class: "bar" });
    part.style.marginLeft = `${Math.min(99, begin)}%`;
    part.style.width = `${Math.max(1, (100 * (ends[place] - first)) / whole - begin)}%`;
    return el("span", { class: "track" }, part);
  };
  const rounded = ({ at_s }) => Number.isInteger(at_s);
  const at = (step) => {
    const time = new Date(step.at_s * 1000);
    return el("time", { datetime: time.toISOString(), title: time.toString() }, rounded(step) ? exactly(time).slice(0, 8) : exactly(time));
  };
  const took = (step) => {
    if (step.took_s === null) return "";
    return rounded(step) && step.took_s < 1 ? "within 1 s" : `+${seconds(step.took_s)}`;
  };
  const columns = [["Step", "", (step) => STEP[step.step] ?? step.step], ["At", "number", at], ["After", "number", took], ["", "bars", bar]];
  return table("Steps of the launch", columns, steps);
}

function attempt({ try_number, state, launch_id, known, fields, steps }, error) {
  const failed = fields.outcome === "failed" || fields.outcome === "expired";
  const badge = el("span", { class: `badge ${failed ? "bad" : ""}` }, `pod ${fields.outcome ?? fields.state}`);
  const parts = [el("h2", {}, `Try ${try_number}: ${state} `, known && badge)];
  if (!launch_id) parts.push(empty("podrelay did not launch this try, or does so in a moment."));
  else if (error) parts.push(empty(`Launch ${launch_id}`));
  else if (!known) parts.push(empty(`Launch ${launch_id}: Redis does not hold it any more. Entries expire [podrelay] ledger_ttl_s after their end; the event log still has the reason of a failure.`));
  if (fields.reason || fields.message) {
    const reason = [el("strong", {}, fields.reason ?? ""), " ", CAUSE[fields.failure_class] ?? ""];
    parts.push(el("div", { class: failed ? "why bad" : "why" }, reason, fields.message && el("pre", {}, fields.message)));
  }
  if (steps.length) parts.push(el("div", { class: "scroll" }, timeline(steps)));
  if (known) {
    const facts = [["Launch", launch_id], ...Object.entries(FIELD).map(([name, title]) => [title, fields[name]])];
    if (Number(fields.attempt) > 0) facts.push(["Attempt", `${Number(fields.attempt) + 1} of this launch`]);
    const shown = facts.filter(([, value]) => value);
    parts.push(el("dl", {}, shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  }
  return el("section", { class: "card try" }, parts);
}

let shown = "";

async function refresh() {
  if (document.hidden) return;
  const found = await read(`api/launches?${parameters}`);
  notice(found.error);
  const tries = document.getElementById("tries");
  tries.removeAttribute("aria-busy");
  if (!found.tries || JSON.stringify(found) === shown) return;
  shown = JSON.stringify(found);
  const cards = found.tries.map((each) => attempt(each, found.error));
  tries.replaceChildren(...(cards.length ? cards : [empty("This task has not been launched yet.")]));
}

refresh();
setInterval(refresh, 5000);
document.addEventListener("visibilitychange", refresh);
