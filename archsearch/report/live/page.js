// Watches a run: figures and curves every two seconds, the report when a new one lies ready; asks
// the server to stop the run or to go on with it. Whatever the server says is written as text.
"use strict";
(() => {
const LOOK_MS = 2000;
const HIDDEN_MS = 15000;
const PAUSE_BEFORE_COMPLAINT_MS = 5000;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const small = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 4 });
const large = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const number = (value) => (Math.abs(value) >= 1000 ? large : small).format(value);

// The token came with the address, and is a cookie now: it need not stay in the history.
history.replaceState(null, "", "/");

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${small.format(Math.round(seconds / 360) / 10)} h`;
}

const several = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

// What was said last; a complaint stays until something else is said.
function tell(words, wrong = false) {
  const told = byId("told");
  if (told.textContent !== words) told.textContent = words;
  told.classList.toggle("wrong", wrong);
  told.hidden = !words;
}

// How far it is

function meter(id, label, words, share) {
  const bar = make("progress", { id, max: 1, value: Math.min(1, share) });
  return make("div", { class: "meter" },
    make("label", { for: id }, make("span", {}, label), make("span", {}, words)), bar);
}

let last = "";

function stateOf(live) {
  const { progress, runner, started } = live;
  if (runner) return "running";
  if (started && started.code === null) return last === "running" || last === "ending" ? "ending" : "starting";
  if (!progress) return "not begun";
  return progress.finished >= progress.target ? "finished" : "not running";
}

function showProgress(live) {
  const { progress, runner } = live;
  const state = stateOf(live);
  if (state !== last && !byId("told").classList.contains("wrong")) tell(""); // what was asked for has come
  last = state;
  byId("state").textContent = state;
  byId("state").dataset.state = state;
  byId("runner").textContent = runner
    ? `by process ${runner.pid} on ${runner.host}, since ${runner.since.replace("T", " ")}` : "";
  byId("stop").disabled = !runner;
  byId("extend").disabled = Boolean(runner) || state === "starting" || !progress;
  if (!progress) return;
  byId("study").textContent = progress.study;
  document.title = `${progress.study}: ${progress.finished} of ${progress.target}, ${state}`;
  const { taken, of } = progress.minutes;
  const share = progress.finished / progress.target;
  const meters = [meter("trials-meter", "Trials", `${number(progress.finished)} of ${number(progress.target)}`, share)];
  if (of) meters.push(meter("time-meter", "Time", `${small.format(taken)} of ${small.format(of)} minutes`, taken / of));
  byId("meters").replaceChildren(...meters);
  const outcomes = Object.entries(progress.outcomes).map(([name, count]) => `${number(count)} ${name}`);
  const facts = [
    ["Outcomes", outcomes.join(", ") || "none yet"],
    ["Front", several(progress.front, "network")],
    ["Hypervolume", progress.hypervolume ? progress.hypervolume.value.toFixed(4) : "–"],
    ["Trained for", duration(progress.store.train_seconds)],
    ["Records", number(progress.store.records)],
  ];
  if (progress.further_seeds.trainings) facts.push(["Further seeds", number(progress.further_seeds.trainings)]);
  if (progress.showings.length) facts.push(["For the end", progress.showings.join(", ")]);
  byId("facts").replaceChildren(...facts.map(([term, words]) =>
    make("div", {}, make("dt", {}, term), make("dd", {}, words))));
}

// Trainings

function curve(training) {
  const losses = training.curve.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const y = (loss) => (high > low ? 4 + 92 * (high - loss) / (high - low) : 50);
  const points = training.curve.map(([seen, loss]) => `${(300 * seen / training.budget).toFixed(2)},${y(loss).toFixed(2)}`);
  const words = `Loss of the training, from ${number(losses[0])} to ${number(losses.at(-1))} after ${number(training.samples)} pictures`;
  const drawn = shape("svg", { class: "curve", viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img", "aria-label": words });
  drawn.append(shape("line", { x1: 0, x2: 300, y1: 100, y2: 100 }), shape("polyline", { points: points.join(" ") }));
  const ends = make("div", { class: "ends", "aria-hidden": "true" },
    make("span", {}, number(losses[0])), make("span", {}, `loss ${number(losses.at(-1))}`));
  return [drawn, ends];
}

function card(training) {
  const title = `Trial ${training.trial}${training.preset ? `, ${training.preset}` : ""}`;
  const aim = training.seed ? `again with seed ${training.seed}` : `to ${number(training.budget)} pictures`;
  const id = `share-${training.trial}-${training.budget}-${training.seed}`;
  const share = training.samples / training.budget;
  const left = training.seconds_left === null ? "" : `about ${duration(training.seconds_left)} left`;
  return make("li", {},
    make("h3", {}, title),
    make("div", { class: "line" }, make("span", {}, aim), make("span", {}, left)),
    meter(id, `${number(training.samples)} pictures seen`, `${Math.floor(100 * share)} %`, share),
    ...(training.curve.length > 1 ? curve(training) : []));
}

function showTrainings(live) {
  byId("trainings").replaceChildren(...live.trainings.map(card));
  byId("idle").hidden = live.trainings.length > 0;
}

// The report: a new one is loaded beside the old one, and takes its place where that was read.

let shown = 0;
let place = 0;

const frame = () => document.querySelector("#report iframe:not(.coming)");

window.addEventListener("message", (event) => {
  const current = frame();
  if (current && event.source === current.contentWindow && Number.isFinite(event.data?.scrolled)) place = event.data.scrolled;
});

function loadReport(version) {
  shown = version;
  const old = frame();
  const coming = make("iframe", { src: `/report?v=${version}`, title: "Report of the run", sandbox: "allow-scripts allow-downloads allow-modals", class: old ? "coming" : "" });
  document.querySelectorAll("#report iframe.coming").forEach((late) => late.remove());
  coming.addEventListener("load", () => {
    const there = place;
    coming.contentWindow.postMessage({ scroll: there }, "*");
    setTimeout(() => { old?.remove(); coming.className = ""; }, old ? 300 : 0);
  }, { once: true });
  byId("report").append(coming);
}

function showReport({ version, writing, error }) {
  if (version > shown && (byId("follow").checked || !shown)) loadReport(version);
  const late = version > shown ? "A newer one lies ready." : "";
  const state = error ? `The report could not be written: ${error}` : late;
  byId("report-state").textContent = state || (writing ? (version ? "A newer one is being written…" : "It is being written…") : "");
}

byId("follow").addEventListener("change", look);

// Asking the server

let pending = 0;
let silent = 0;
let complaint = "";

async function look() {
  clearTimeout(pending);
  try {
    const answer = await fetch("/live.json");
    const live = await answer.json();
    if (!answer.ok) throw new Error(live.error);
    silent = 0;
    showProgress(live);
    showTrainings(live);
    showReport(live.report);
    const failed = live.started && live.started.code !== null && live.started.code !== 0
      ? `What was started here ended with exit code ${live.started.code}: ${live.started.words}` : "";
    const now = live.error || failed;
    if (now !== complaint) tell(now, true);
    complaint = now;
  } catch (error) {
    silent = silent || Date.now();
    const why = error instanceof TypeError ? "The dashboard does not answer: perhaps it was ended. The run is not touched by that." : error.message;
    if (Date.now() - silent > PAUSE_BEFORE_COMPLAINT_MS || !(error instanceof TypeError)) tell(complaint = why, true);
  }
  clearTimeout(pending);
  pending = setTimeout(look, document.hidden ? HIDDEN_MS : LOOK_MS);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });

async function order(path, content) {
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
    });
    const { done, error } = await answer.json();
    tell(done ?? error, !answer.ok);
  } catch {
    tell("The dashboard does not answer: nothing was asked of the run.", true);
  }
  look();
}

// Stopping and going on, each after a question

function opens(button, dialog, prepare = () => {}) {
  byId(button).addEventListener("click", async () => { await prepare(); byId(dialog).showModal(); });
  byId(dialog).querySelector(".close").addEventListener("click", () => byId(dialog).close());
}

opens("stop", "stop-dialog");
byId("stop-yes").addEventListener("click", () => { byId("stop-dialog").close(); order("/stop", {}); });

opens("extend", "extend-dialog", async () => {
  const { progress } = await (await fetch("/live.json")).json();
  const { taken, of } = progress.minutes;
  const used = of ? `, and ${small.format(taken)} of ${small.format(of)} minutes are taken` : "";
  byId("extend-words").textContent = `${number(progress.finished)} of ${several(progress.target, "trial")} are finished${used}.`;
  byId("extend-trials").value = progress.finished < progress.target ? progress.target : "";
  byId("extend-time").hidden = !of;
  byId("extend-minutes").value = of && taken < of ? of : "";
});
byId("extend-yes").addEventListener("click", () => {
  byId("extend-dialog").close();
  const wanted = {};
  for (const name of ["trials", "minutes"]) {
    const field = byId(`extend-${name}`);
    if (field.value && !field.parentElement.hidden) wanted[name] = Number(field.value);
  }
  order("/extend", wanted);
});

look();
})();
