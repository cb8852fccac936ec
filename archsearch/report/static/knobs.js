// Networks as lines over the knobs, and the plots of how the search went.

const parallelNode = byId("parallel-chart");
const LINES = 300; // of networks that are not on the front, evenly taken

// The axes: every knob with more than one choice, then the objectives, the best value lowest.
const parallelAxes = [
  ...data.knobs.filter(({ choices }) => choices.length > 1).map(({ name, choices }) => ({
    name,
    at: (trial) => (trial.point[name] === undefined ? null : choices.indexOf(trial.point[name]) / (choices.length - 1)),
    labels: choices.map((text, i) => [text, i / (choices.length - 1)]),
  })),
  ...objectives.map((name) => {
    const values = complete.map((trial) => valueOf(trial, name)).filter((value) => value !== null);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const share = (value) => (high > low ? (isLess(name) ? value - low : high - value) / (high - low) : 0);
    return {
      name,
      at: (trial) => (valueOf(trial, name) === null ? null : share(valueOf(trial, name))),
      labels: values.length ? [[shown(name, isLess(name) ? low : high), 0], [shown(name, isLess(name) ? high : low), 1]] : [],
    };
  }),
];

const lineOf = (trial, more = {}) => parallelAxes.flatMap(({ name, at }, position) => {
  const value = at(trial);
  return value === null ? [] : [{ trial: trial.number, axis: name, at: value, position, ...more }];
});

function parallelMarks() {
  const found = reader.pinned.map((trial, i) => [trial, LETTERS[i]]).filter(([trial]) => trial !== null);
  if (reader.looked !== null) found.push([reader.looked, "ink"]);
  return found.flatMap(([trial, name]) => lineOf(trials.get(trial), { colour: colour(name), trial: `${trial} ${name}` }));
}

function parallelRows() {
  const rest = complete.filter((trial) => !reader.front.has(trial.number));
  const step = Math.max(1, rest.length / LINES);
  const others = Array.from({ length: Math.min(LINES, rest.length) }, (_, i) => rest[Math.floor(i * step)]);
  return {
    others: others.flatMap((trial) => lineOf(trial)),
    members: complete.filter((trial) => reader.front.has(trial.number)).flatMap((trial) => lineOf(trial)),
    marks: parallelMarks(),
  };
}

function parallelSpec() {
  const spec = template("parallel");
  const labels = parallelAxes.flatMap(({ name, labels: own }) => own.map(([text, at]) => ({ axis: name, at, text, zero: 0, one: 1 })));
  spec.datasets = { ...parallelRows(), labels };
  for (const layer of spec.layer) layer.encoding.x.sort = parallelAxes.map(({ name }) => name);
  spec.height = 250;
  spec.description = "Plot of networks as lines over the knobs of the space and the objectives.";
  return spec;
}

function update(node, rows) {
  const view = viewOf(node);
  if (!view) return;
  for (const [name, values] of Object.entries(rows)) view.data(name, values);
  view.runAsync();
}

function growthSpec(column) {
  const spec = template(`growth_${column}`);
  spec.datasets = { history: data.hypervolume.history };
  spec.height = 220;
  spec.description = "Plot of the hypervolume as the search went on.";
  return spec;
}

function runsSpec() {
  const { points, x, y } = data.comparison;
  const [across, up] = [scores.get(x), scores.get(y)];
  const rows = points.map((point) => ({ ...point, x: point.x / across.factor, y: point.y / up.factor }));
  const spec = template("runs");
  setChannel(spec, "x", { ...rangeOf(rows.map((row) => row.x)), title: `${across.axis}, ${across.scale} scale` });
  setChannel(spec, "y", { ...rangeOf(rows.map((row) => row.y)), title: `${up.axis}, ${up.scale} scale` });
  spec.datasets = { points: rows, fronts: rows.filter((row) => row.front) };
  spec.height = 360;
  spec.description = `Plot of the fronts of ${data.comparison.names.join(", ")}.`;
  return spec;
}

function startKnobs() {
  if (complete.length) {
    const others = complete.filter((trial) => !trial.front).length;
    byId("parallel-words").textContent = "A line is a network. Blue: the front within your limits. Coloured and black: what is pinned and looked at. "
      + (others > LINES ? `Grey: ${LINES} of the ${others} other networks, evenly taken.` : "Grey: the others.");
    drawWhenNear(parallelNode, parallelSpec);
    const showParallelMarks = soon(() => update(parallelNode, { marks: parallelMarks() }));
    watch("looked", showParallelMarks);
    watch("pinned", showParallelMarks);
    watch("chosen", soon(() => update(parallelNode, parallelRows())));
  }
  if (data.hypervolume) {
    for (const column of ["finished", "train_seconds"]) {
      const node = byId(`growth-${column}`);
      if (data.hypervolume.history.at(-1)[column] > 0) drawWhenNear(node, () => growthSpec(column));
      else node.remove();
    }
  }
  if (byId("runs-chart")) {
    if (data.comparison.points.length) drawWhenNear(byId("runs-chart"), runsSpec);
    else byId("runs-chart").remove();
  }
}
