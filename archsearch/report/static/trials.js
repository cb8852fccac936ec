// The table of all trials: a page of it at a time, sorted by a column, filtered by words and outcome.

const PAGE = 50;
const listing = { sort: "number", falling: false, page: 0, words: "", outcome: "" };

const columns = [
  { name: "number", title: "trial", value: (trial) => trial.number },
  { name: "outcome", title: "outcome", value: (trial) => (trial.front ? "on the front" : trial.outcome) },
  ...data.scores.map(({ name }) => ({
    name, title: name, figure: true, value: (trial) => valueOf(trial, name), words: (trial) => shownOf(trial, name),
  })),
  { name: "chance", title: "probability of the front", figure: true, value: (trial) => trial.chance ?? null,
    words: (trial) => (trial.chance === null || trial.chance === undefined ? "–" : trial.chance.toFixed(2)) },
  { name: "budget", title: "pictures seen", figure: true, value: (trial) => trial.budget,
    words: (trial) => (trial.budget ? large.format(trial.budget) : "–") },
  { name: "seconds", title: "seconds of training", figure: true, value: (trial) => trial.seconds,
    words: (trial) => number(trial.seconds) },
  { name: "reason", title: "why", value: (trial) => trial.reason },
].filter(({ name, value }) => ["number", "outcome"].includes(name) || data.trials.some((trial) => value(trial)));

const searchable = new Map(data.trials.map((trial) => [trial, [
  trial.name, `#${trial.number}`, trial.outcome, trial.reason, trial.digest || "",
  ...Object.entries(trial.point).map(([knob, choice]) => `${knob}=${choice}`),
].join(" ").toLowerCase()]));

function listed() {
  const words = listing.words.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = data.trials.filter((trial) => {
    if (listing.outcome === "front" ? !trial.front : listing.outcome && trial.outcome !== listing.outcome) return false;
    return words.every((word) => searchable.get(trial).includes(word));
  });
  const { value } = columns.find(({ name }) => name === listing.sort);
  const way = listing.falling ? -1 : 1;
  return kept.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === b) return one.number - other.number;
    if (a === null || a === undefined || a === "") return 1; // what is not known comes last
    if (b === null || b === undefined || b === "") return -1;
    return way * (a < b ? -1 : 1);
  });
}

function headOf({ name, title, figure }) {
  const own = listing.sort === name;
  const order = own ? (listing.falling ? "descending" : "ascending") : "none";
  return make("th", { scope: "col", class: figure ? "figure" : null, "aria-sort": order },
    make("button", { type: "button", "data-sort": name, on: { click: () => sortBy(name) } },
      title, make("span", { "aria-hidden": "true" }, own ? (listing.falling ? " ▼" : " ▲") : "")));
}

function sortBy(name) {
  listing.falling = listing.sort === name && !listing.falling;
  listing.sort = name;
  listing.page = 0;
  showTrials();
  byId("trials-table").querySelector(`button[data-sort="${name}"]`).focus();
}

function rowOf(trial) {
  return networkRow(trial, columns.map((column) => {
    if (column.name === "number") return make("th", { scope: "row" }, networkButton(trial));
    const words = column.words ? column.words(trial) : column.value(trial);
    return make("td", { class: column.figure ? "figure" : column.name === "reason" ? "words" : null }, words ?? "–");
  }));
}

function showTrials() {
  const kept = listed();
  const pages = Math.max(1, Math.ceil(kept.length / PAGE));
  listing.page = Math.min(listing.page, pages - 1);
  const first = listing.page * PAGE;
  const rows = kept.slice(first, first + PAGE);
  byId("trials-table").replaceChildren(
    make("thead", {}, make("tr", {}, columns.map(headOf))),
    make("tbody", {}, rows.map(rowOf)),
  );
  byId("trials-count").textContent = rows.length
    ? `${large.format(first + 1)} to ${large.format(first + rows.length)} of ${large.format(kept.length)} trials`
    : "No trial is like that.";
  byId("trials-back").disabled = listing.page === 0;
  byId("trials-on").disabled = listing.page >= pages - 1;
}

function startTrials() {
  const outcomes = [...new Set(data.trials.map(({ outcome }) => outcome))].sort();
  byId("trials-outcome").append(
    make("option", { value: "" }, "every trial"),
    ...(complete.length ? [make("option", { value: "front" }, "the front")] : []),
    ...outcomes.map((outcome) => make("option", { value: outcome }, outcome)),
  );
  const filterSoon = soon(() => { listing.page = 0; showTrials(); });
  byId("trials-filter").addEventListener("input", (event) => { listing.words = event.target.value; filterSoon(); });
  byId("trials-outcome").addEventListener("change", (event) => { listing.outcome = event.target.value; filterSoon(); });
  for (const [id, step] of [["trials-back", -1], ["trials-on", 1]]) {
    byId(id).addEventListener("click", () => { listing.page += step; showTrials(); });
  }
  byId("trials-table").addEventListener("keydown", moveFocus);
  showTrials();
}
