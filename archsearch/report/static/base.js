// What the page knows, how its numbers read, and what its reader looks at, has pinned and allows.

const data = JSON.parse(document.getElementById("contents").textContent);
const drawings = JSON.parse(document.getElementById("drawings").textContent);
const trials = new Map(data.trials.map((trial) => [trial.number, trial]));
const scores = new Map(data.scores.map((score) => [score.name, score]));
const complete = data.trials.filter((trial) => trial.outcome === "complete");
const objectives = data.scores.filter(({ objective }) => objective).map(({ name }) => name);
const LETTERS = ["a", "b", "c", "d"];

const byId = (id) => document.getElementById(id);

// An element with attributes and children; words become text, never markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Numbers

const small = new Intl.NumberFormat("en-GB", { minimumSignificantDigits: 4, maximumSignificantDigits: 4 });
const large = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  return Math.abs(value) >= 1000 ? large.format(value) : small.format(value);
}

// A value of a score in its unit.
function shown(name, value) {
  if (value === null || value === undefined) return "–";
  const score = scores.get(name);
  const text = number(value / score.factor);
  return score.unit ? `${text}\u00a0${score.unit}` : text;
}

// What a trial is taken to have: of a quality what is believed, else what was measured.
function valueOf(trial, name) {
  const believed = trial.believed && trial.believed[name];
  const value = believed ? believed[0] : trial.scores[name];
  return value === undefined ? null : value;
}

function shownOf(trial, name) {
  const sign = trial.marked && trial.marked.includes(name) ? "≈\u00a0" : "";
  return sign + shown(name, valueOf(trial, name));
}

const isLess = (name) => scores.get(name).direction === "minimize";
const signed = (trial, name) => (isLess(name) ? 1 : -1) * valueOf(trial, name);

// Which of some trials no other dominates, by the given scores; of equal ones all.
function undominated(some, names) {
  const rows = some.map((trial) => names.map((name) => signed(trial, name)));
  const order = rows.map((_, i) => i).sort((i, j) => {
    for (let k = 0; k < names.length; k++) if (rows[i][k] !== rows[j][k]) return rows[i][k] - rows[j][k];
    return i - j;
  });
  const kept = [];
  for (const i of order) {
    const beaten = kept.some((j) =>
      rows[j].every((value, k) => value <= rows[i][k]) && rows[j].some((value, k) => value < rows[i][k]));
    if (!beaten) kept.push(i);
  }
  return kept.map((i) => some[i]);
}

// What the reader does

const reader = {
  looked: null,
  pinned: [null, null, null, null],
  limits: new Map(),
  weights: new Map(objectives.map((name) => [name, 5])),
  front: new Set(complete.filter((trial) => trial.front).map((trial) => trial.number)),
  choice: null,
};
const watchers = { looked: [], pinned: [], chosen: [] };
const watch = (what, act) => watchers[what].push(act);
const tell = (what) => watchers[what].forEach((act) => act());

// Told to those who do not see the page.
function say(words) {
  const said = byId("said");
  said.textContent = said.textContent === words ? `${words}\u00a0` : words;
}

function look(trial) {
  if (reader.looked === trial) return;
  reader.looked = trial;
  tell("looked");
}

const letterOf = (trial) => LETTERS[reader.pinned.indexOf(trial)];

function pin(trial) {
  const at = reader.pinned.indexOf(trial);
  const name = trials.get(trial).name;
  if (at >= 0) {
    reader.pinned[at] = null;
    say(`${name} is not pinned any more.`);
  } else {
    const free = reader.pinned.indexOf(null);
    if (free < 0) return say("Four networks are pinned already. Unpin one first.");
    reader.pinned[free] = trial;
    say(`${name} is pinned as ${LETTERS[free].toUpperCase()}.`);
  }
  tell("pinned");
}

// The button that stands for a network: focus or pointer look at it, a press pins it.
function networkButton(trial, words = trial.name) {
  const button = make("button", {
    type: "button", class: "network", "data-trial": trial.number,
    on: { click: () => pin(trial.number), focus: () => lookAloud(trial.number) },
  }, words);
  markPinned(button);
  return button;
}

function lookAloud(trial) {
  look(trial);
  const of = trials.get(trial);
  const known = objectives.map((name) => `${name} ${shownOf(of, name)}`).join(", ");
  say(`${of.name}, ${of.front ? "on the front" : of.outcome}: ${known}.`);
}

function markPinned(button) {
  const letter = letterOf(Number(button.dataset.trial));
  button.setAttribute("aria-pressed", String(Boolean(letter)));
  button.classList.remove(...LETTERS.map((each) => `pin-${each}`));
  if (letter) button.classList.add(`pin-${letter}`);
}

watch("pinned", () => document.querySelectorAll("button.network").forEach(markPinned));
watch("looked", () => {
  document.querySelectorAll("tr.looked").forEach((row) => row.classList.remove("looked"));
  document.querySelectorAll(`tr[data-row="${reader.looked}"]`).forEach((row) => row.classList.add("looked"));
});

// A row of a table that stands for a network.
function networkRow(trial, ...cells) {
  const row = make("tr", { "data-row": trial.number, on: { pointerenter: () => look(trial.number) } }, ...cells);
  if (reader.looked === trial.number) row.classList.add("looked");
  return row;
}

// In a table arrow keys lead from a network to the next.
function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const buttons = [...event.currentTarget.querySelectorAll("button.network")];
  const at = buttons.indexOf(document.activeElement);
  if (!step || at < 0) return;
  event.preventDefault();
  const next = buttons[at + step];
  if (next) next.focus();
}

// At most once a frame.
function soon(act) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; act(); });
  };
}
