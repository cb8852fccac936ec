// The pinned networks beside each other.

const METRICS = ["Parameters", "MACs", "Latency"];
const metricScore = ["params", "macs", "latency_ms"];
let metric = 0;

const compareGroup = (title, columns) =>
  make("tr", { class: "group" }, make("th", { scope: "rowgroup", colspan: columns + 1 }, title));

function compareRow(title, cells) {
  return make("tr", {}, make("th", { scope: "row" }, title), cells.map((cell) => make("td", {}, cell)));
}

// A cost with a bar of its length beside those of the other networks.
function amount(value, most, letter, beside = "") {
  const unit = ["params", "macs"].includes(metricScore[metric]) ? shown(metricScore[metric], value) : `${number(value)}\u00a0ms`;
  const bar = make("span", { class: `bar of-${letter}`, "aria-hidden": "true" });
  bar.style.width = `${most ? (100 * value) / most : 0}%`;
  return make("span", { class: "amount" }, unit, beside ? make("small", {}, ` ${beside}`) : null, bar);
}

function costRows(some, part) {
  const bills = some.map((trial) => data.bills[trial.number]);
  const names = [...new Set(bills.flatMap((bill) => (bill ? bill[part].map(({ name }) => name) : [])))];
  const value = (bill, name) => bill && bill[part].find((each) => each.name === name);
  const most = Math.max(...bills.flatMap((bill) => (bill ? bill[part].map(({ costs }) => costs[metric]) : [0])));
  return names.map((name) => compareRow(name, some.map((trial, i) => {
    const found = value(bills[i], name);
    if (!bills[i]) return "–";
    if (!found) return "none";
    const beside = part === "stages" && found.channels ? `${found.channels} channels` : "";
    return amount(found.costs[metric], most, letterOf(trial.number), beside);
  })));
}

function pipelineWords(trial) {
  const name = ["pipeline_ms", "pipeline_unet_ms"].find((each) => trial.scores[each] !== undefined);
  if (!name) return "The study names no pipeline.";
  const whole = trial.scores[name];
  const passes = Math.round(trial.scores.pipeline_unet_ms / trial.scores.latency_ms);
  const what = name === "pipeline_ms" ? "from prompt to picture" : "UNet alone";
  return `${number(whole / 1000)}\u00a0s, ${what}: ${passes} passes of ${shownOf(trial, "latency_ms")}`;
}

// The stages of the pinned networks, drawn under each other at one scale.
function diagrams(some) {
  const found = some.map((trial) => [trial, byId(`diagram-${trial.number}`)]).filter(([, drawing]) => drawing);
  if (!found.length) return [];
  return [make("h3", {}, "Stages"), ...found.map(([trial, drawing]) =>
    make("div", { class: "diagram", role: "region", "aria-label": `Stages of ${trial.name}`, tabindex: "0" },
      drawing.content.cloneNode(true)))];
}

function metricChoice() {
  return make("fieldset", { class: "radios" }, make("legend", {}, "Costs by stage and kind of layer"),
    METRICS.map((name, i) => make("label", {},
      make("input", { type: "radio", name: "metric", value: i, checked: i === metric, on: { change: () => {
        metric = i;
        showCompared();
        byId("compare-body").querySelector(`input[value="${i}"]`).focus();
      } } }), ` ${name}`)));
}

function showCompared() {
  const some = reader.pinned.filter((trial) => trial !== null).map((trial) => trials.get(trial));
  byId("compare-clear").disabled = !some.length;
  const body = byId("compare-body");
  if (!some.length) return body.replaceChildren(make("p", {}, "No network is pinned."));
  const columns = some.length;
  const knobs = data.knobs.filter(({ name }) => new Set(some.map((trial) => trial.point[name])).size > 1);
  const captions = new Set(some.map((trial) => (data.pictures[trial.number] || { captions: [] }).captions.join(" · ")).filter(Boolean));
  const bill = some.map((trial) => data.bills[trial.number]).find(Boolean);
  const head = some.map((trial) => {
    const letter = letterOf(trial.number);
    return make("th", { scope: "col" }, make("span", { class: `letter of-${letter}` }, letter.toUpperCase()), trial.name, " ",
      make("button", { type: "button", "aria-label": `Unpin ${trial.name}`, on: { click: () => pin(trial.number) } }, "Unpin"));
  });
  const rows = [
    compareRow("pictures", some.map((trial) => pictures(trial) || "none are kept")),
    ...[...captions].map((words) => make("tr", {}, make("td", { colspan: columns + 1, class: "captions" },
      `Captions, row by row, drawn from the same noise: ${words}.`))),
    compareGroup("Scores", columns),
    ...data.scores.map(({ name }) => compareRow(name, some.map((trial) => (trial.believed ? believedWords(trial, name) : shownOf(trial, name))))),
    compareRow("probability of the front", some.map((trial) => (trial.chance === null || trial.chance === undefined ? "–" : trial.chance.toFixed(2)))),
    compareRow("a whole picture", some.map(pipelineWords)),
    compareGroup(columns > 1 ? "Knobs that differ" : `Knobs that differ from ${data.reference.name}`, columns),
    ...(columns > 1
      ? knobs.map(({ name }) => compareRow(name, some.map((trial) => trial.point[name] ?? "–")))
      : differing(some[0]).map(([name, own, other]) => compareRow(name, [`${own}, not ${other}`]))),
  ];
  if (bill) {
    rows.push(
      make("tr", {}, make("td", { colspan: columns + 1 }, metricChoice())),
      compareGroup(`${METRICS[metric]} by stage`, columns), ...costRows(some, "stages"),
      compareGroup(`${METRICS[metric]} by kind of layer`, columns), ...costRows(some, "kinds"),
    );
  }
  const notes = [];
  if (bill && metric === 2) {
    notes.push(make("p", { class: "small" }, bill.device
      ? `Milliseconds by stage and kind are sums of units measured on ${bill.device}, before the table's correction of the whole.`
      : "The study has no table of measured units, so there is no latency by stage."));
  }
  body.replaceChildren(
    make("div", { class: "scroll", role: "region", "aria-label": "Pinned networks", tabindex: "0" },
      make("table", {}, make("thead", {}, make("tr", {}, make("td"), head)), make("tbody", {}, rows))),
    ...notes,
    ...diagrams(some),
  );
}

function startCompare() {
  byId("compare-clear").addEventListener("click", () => {
    reader.pinned.fill(null);
    say("No network is pinned.");
    tell("pinned");
  });
  watch("pinned", showCompared);
  showCompared();
}
