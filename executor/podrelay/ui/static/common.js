// What both pages share: the theme, building of elements, words for figures, links to Airflow, reading of data.
// Texts come from Redis, where anybody with access may have written them: they are only ever set as text.
"use strict";

// --- theme: Airflow's where the page is in its frame, else the browser's ----------------------------------------------
const frame = (() => {
  try {
    return window.parent !== window ? window.parent.document : null;
  } catch {
    return null; // another site's frame
  }
})();

function isDark() {
  const classes = frame?.documentElement.classList;
  if (classes?.contains("dark")) return true;
  if (classes?.contains("light")) return false;
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function applyTheme() {
  const theme = isDark() ? "dark" : "light";
  if (document.documentElement.dataset.theme === theme) return;
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("theme"));
}

applyTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
if (frame) new MutationObserver(applyTheme).observe(frame.documentElement, { attributes: true });

// --- elements -----------------------------------------------------------------------------------------------------
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Columns: [title, class, function from a row to a cell's content].
function table(caption, columns, rows) {
  const head = el("tr", {}, columns.map(([title, kind]) => el("th", { scope: "col", class: kind }, title)));
  const body = rows.map((row) => el("tr", {}, columns.map(([, kind, cell]) => el("td", { class: kind }, cell(row) ?? "–"))));
  return el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, head), el("tbody", {}, body));
}

function card(title, note, content) {
  const heading = el("h3", {}, title, note && el("span", { class: "note" }, note));
  return el("section", { class: "card" }, heading, el("div", { class: "scroll" }, content));
}

const empty = (text) => el("p", { class: "empty" }, text);

// --- figures --------------------------------------------------------------------------------------------------------
const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} days`;
}

function rate(value) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

const two = (number) => String(number).padStart(2, "0");
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;
const exactly = (at) => `${clock(at)}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;

// --- links ------------------------------------------------------------------------------------------------------------
// Airflow's frame allows neither a new window nor a change of the page around it. So the link is followed in the document of
// that page, as if it stood there.
function follow(event) {
  if (!frame) return;
  event.preventDefault();
  const link = frame.createElement("a");
  const { href, target } = event.currentTarget;
  const away = target || event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1;
  Object.assign(link, { href, rel: "noopener", target: away ? "_blank" : "" });
  frame.body.append(link);
  link.click();
  link.remove();
}

function link(href, target, ...children) {
  const element = el("a", { href, target, rel: target && "noopener" }, children);
  element.addEventListener("click", follow);
  element.addEventListener("auxclick", (event) => event.button === 1 && follow(event));
  return element;
}

function taskPath({ dag_id, run_id, task_id, map_index }) {
  const [dag, run, task] = [dag_id, run_id, task_id].map(encodeURIComponent);
  return `../dags/${dag}/runs/${run}/tasks/${task}${map_index >= 0 ? `/mapped/${map_index}` : ""}`;
}

// --- data -------------------------------------------------------------------------------------------------------------
// The answer, or {error}: a sentence for the reader.
async function read(path) {
  try {
    const answer = await fetch(path, { credentials: "same-origin" });
    if (answer.status === 401) return { error: "You are logged out of Airflow. Log in, then reload this page." };
    if (answer.status === 403) return { error: "Your Airflow user may not see this." };
    if (!answer.ok) return { error: `Airflow's API server answered with ${answer.status}.` };
    return await answer.json();
  } catch {
    return { error: "Airflow's API server does not answer." };
  }
}

function notice(text) {
  const element = document.getElementById("notice");
  element.hidden = !text;
  if (element.textContent !== text) element.textContent = text ?? "";
}
