// The front in any two scores, and its table.

const frontNode = byId("front-chart");
const axes = { x: null, y: null };
const KINDS = ["line", "interval", "raw", "early", "outside", "dominated", "member", "preset", "names", "names_left"];
let places = []; // of every network in the plot: trial, and where it lies

const withinLimits = (trial) => [...reader.limits].every(([name, limit]) => {
  const value = valueOf(trial, name);
  return value !== null && (isLess(name) ? value <= limit : value >= limit);
});

function frontRows() {
  const rows = Object.fromEntries(["limits_x", "limits_y", ...KINDS].map((name) => [name, []]));
  const [across, up] = [scores.get(axes.x), scores.get(axes.y)];
  places = [];
  const ended = [];
  for (const trial of complete) {
    const [x, y] = [valueOf(trial, axes.x), valueOf(trial, axes.y)];
    if (x === null || y === null) continue;
    const row = { trial: trial.number, x: x / across.factor, y: y / up.factor, text: trial.name };
    const believed = trial.believed[axes.y];
    if (believed) Object.assign(row, { low: believed[1] / up.factor, high: believed[2] / up.factor });
    places.push(row);
    const inside = withinLimits(trial);
    const member = reader.front.has(trial.number);
    const kind = member ? "member" : !inside ? "outside" : trial.judged ? "dominated" : "early";
    rows[trial.preset ? "preset" : kind].push(row);
    if (believed && (member || trial.preset)) rows.interval.push(row);
    if (trial.judged && inside) ended.push(trial);
    if (trial.judged && (member || trial.preset || complete.length <= 200)) {
      rows.raw.push(...(trial.raw[axes.y] || []).map((value) => ({ x: row.x, y: value / up.factor })));
    }
  }
  const at = new Map(places.map((row) => [row.trial, row]));
  rows.line = undominated(ended, [axes.x, axes.y]).map((trial) => at.get(trial.number));
  for (const [channel, name] of [["limits_x", axes.x], ["limits_y", axes.y]]) {
    const { min, max } = data.limits[name] || {};
    const limits = [min, max, reader.limits.get(name)].filter((value) => value !== null && value !== undefined);
    const key = channel.endsWith("x") ? "x" : "y";
    rows[channel] = limits.map((value) => ({ [key]: value / scores.get(name).factor }));
  }
  return rows;
}

// The plot's ranges hold every network, and limits that are not far off.
function frontRange(key, rows) {
  const values = places.map((row) => row[key]);
  if (key === "y") {
    rows.interval.forEach((row) => values.push(row.low, row.high));
    rows.raw.forEach((row) => values.push(row.y));
  }
  const most = Math.max(...values);
  for (const row of rows[`limits_${key}`]) if (row[key] <= 1.3 * most) values.push(row[key]);
  return rangeOf(values);
}

// Names of the front and the presets, on the side where there is room; those that would lie over
// each other are left out: the table has all of them.
function nameRows(rows, across, up) {
  const on = ({ type, domain }, value) => {
    const [low, high, at] = [...domain, value].map(type === "log" ? Math.log : Number);
    return (at - low) / (high - low);
  };
  const [taken, names, left] = [[], [], []];
  for (const [some, shade] of [[rows.preset, "preset"], [rows.member, "ink"]]) {
    for (const row of some) {
      const [x, y] = [on(across, row.x), on(up, row.y)];
      if (taken.some(([a, b]) => Math.abs(a - x) < 0.07 && Math.abs(b - y) < 0.06)) continue;
      taken.push([x, y]);
      (x > 0.7 ? left : names).push({ x: row.x, y: row.y, text: row.text, colour: colour(shade) });
    }
  }
  return { names, names_left: left };
}

function frontSpec() {
  const rows = frontRows();
  const [across, up] = [frontRange("x", rows), frontRange("y", rows)];
  const spec = template("front");
  for (const [channel, range] of [["x", across], ["y", up]]) {
    const score = scores.get(axes[channel]);
    const title = `${score.axis}, ${score.scale} scale`;
    const narrow = channel === "x" && frontNode.clientWidth < 500;
    setChannel(spec, channel, { ...range, title: narrow ? title.split(", ") : title });
  }
  spec.datasets = { ...rows, ...nameRows(rows, across, up), marks: marks() };
  spec.height = 380;
  spec.description = `Plot of ${places.length} networks: ${axes.x} across, ${axes.y} up. The table below has the same networks.`;
  return spec;
}

// Rings around what is looked at and pinned.
function marks() {
  const found = reader.pinned.map((trial, i) => [trial, LETTERS[i]]).filter(([trial]) => trial !== null);
  if (reader.looked !== null) found.push([reader.looked, null]);
  return found.flatMap(([trial, letter]) => {
    const row = places.find((each) => each.trial === trial);
    return row ? [{ ...row, colour: colour(letter || "ink"), letter: letter ? letter.toUpperCase() : "" }] : [];
  });
}

const showMarks = soon(() => {
  const view = viewOf(frontNode);
  if (view) view.data("marks", marks()).runAsync();
});

const showFront = soon(() => {
  const view = viewOf(frontNode);
  showFrontTable();
  if (!view) return;
  const rows = frontRows();
  const [across, up] = ["x", "y"].map((key) => ({ type: view.scale(key).type, domain: view.scale(key).domain() }));
  for (const [name, values] of Object.entries({ ...rows, ...nameRows(rows, across, up) })) view.data(name, values);
  view.data("marks", marks()).runAsync();
});

// The network nearest to the pointer, up to 30 pixels off.
function nearest(event) {
  const view = viewOf(frontNode);
  if (!view) return null;
  const box = frontNode.querySelector("canvas").getBoundingClientRect();
  const [left, top] = view.origin();
  const [x, y] = [view.scale("x"), view.scale("y")];
  let [found, least] = [null, 30];
  for (const row of places) {
    const apart = Math.hypot(x(row.x) + left + box.left - event.clientX, y(row.y) + top + box.top - event.clientY);
    if (apart < least) [found, least] = [row.trial, apart];
  }
  return found;
}

frontNode.addEventListener("pointermove", (event) => {
  const trial = nearest(event);
  if (trial !== null) look(trial);
});
frontNode.addEventListener("click", (event) => {
  const trial = nearest(event);
  if (trial === null) return;
  look(trial);
  if (event.pointerType !== "touch") pin(trial); // a finger looks first; the panel has the button
});

// The table

function believedWords(trial, name) {
  const believed = trial.believed[name];
  return believed
    ? `${shown(name, believed[0])} (${shown(name, believed[1])} to ${shown(name, believed[2])})`
    : shownOf(trial, name);
}

function showFrontTable() {
  const costs = data.scores.filter(({ scale, objective }) => scale === "deployment" && !objective).map(({ name }) => name);
  const uncertain = objectives.some((name) => scores.get(name).scale === "proxy");
  const rows = complete.filter((trial) => reader.front.has(trial.number));
  if (data.cost) rows.sort((one, other) => valueOf(one, data.cost) - valueOf(other, data.cost));
  const titleOf = (name) => (scores.get(name).scale === "proxy" ? `${name}, believed (95 %)` : name);
  const figure = (trial, name) => make("td", { class: "figure" }, believedWords(trial, name));
  byId("front-table").replaceChildren(
    make("caption", {}, reader.limits.size
      ? `The front of the networks within your limits: ${rows.length}`
      : `The front, cheapest first: ${rows.length} of ${complete.length} networks`),
    make("thead", {}, make("tr", {},
      make("th", { scope: "col" }, "network"),
      objectives.map((name) => make("th", { scope: "col", class: "figure" }, titleOf(name))),
      uncertain ? [make("th", { scope: "col" }, "on the front"), make("th", { scope: "col" }, "same as")] : [],
      costs.map((name) => make("th", { scope: "col", class: "figure" }, name)))),
    make("tbody", {}, rows.map((trial) => networkRow(trial,
      make("th", { scope: "row" }, networkButton(trial)),
      objectives.map((name) => figure(trial, name)),
      uncertain ? [
        make("td", {}, trial.chance === null ? "–" : trial.chance.toFixed(2)),
        make("td", {}, (trial.same || []).map((other) => trials.get(other).name).join(", ") || (trial.same ? "–" : "not known")),
      ] : [],
      costs.map((name) => figure(trial, name))))),
  );
}

function sameOnFront() {
  const pairs = complete.filter((trial) => trial.front && trial.same && trial.same.length)
    .flatMap((trial) => trial.same.filter((other) => other > trial.number).map((other) => `${trial.name} and ${trials.get(other).name}`));
  if (!pairs.length) return "";
  const more = pairs.length > 6 ? ` and ${pairs.length - 6} more pairs` : "";
  return `Seeds alone could make these the same: ${pairs.slice(0, 6).join("; ")}${more}.`;
}

function startFront() {
  axes.x = data.cost || (data.scores.find(({ name }) => name !== objectives[0]) || data.scores[0]).name;
  axes.y = data.quality || objectives.find((name) => name !== axes.x) || objectives[0];
  for (const key of ["x", "y"]) {
    const select = byId(`front-${key}`);
    select.append(...data.scores.map(({ name, label }) =>
      make("option", { value: name, selected: name === axes[key] }, `${name}: ${label}`)));
    select.addEventListener("change", () => { axes[key] = select.value; draw(frontNode, frontSpec); });
  }
  byId("front-legend").textContent =
    "Filled circles: the front; the line is the front of these two scores. Bars: the interval of 95 % of what is believed. "
    + "Crosses: single trainings. Grey: dominated; hollow: stopped early. Stars: presets. Dashed: limits. "
    + "Point to a network to look at it, click to pin it. In the table: on the front is its probability; same as are those that differ by no more than seeds do.";
  byId("front-same").textContent = sameOnFront();
  byId("front-table").addEventListener("keydown", moveFocus);
  showFrontTable();
  drawWhenNear(frontNode, frontSpec);
  watch("looked", showMarks);
  watch("pinned", showMarks);
  watch("chosen", showFront);
}
