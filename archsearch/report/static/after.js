// Quality against the latency of a picture, by number of steps.

const stepsNode = byId("after-chart");
let stepScore = null;

// A colour for each network: a preset its own, the others evenly over the hues that differ from it.
function networkColours(names, presets) {
  const light = dark.matches ? 65 : 40;
  return names.map((name, i) => presets.has(name) ? colour("preset")
    : `hsl(${Math.round(70 + (280 * i) / names.length)}, 55%, ${light + (i % 2 ? 8 : -6)}%)`);
}

function stepsSpec() {
  const { steps, networks, cost, factor, cost_label, axes } = data.after;
  const rows = steps.filter((row) => row.cost_of === cost && row.scores[stepScore] !== undefined)
    .map((row) => ({ network: row.network, how: row.how, steps: row.steps, x: row.cost / factor, y: row.scores[stepScore] }));
  const presets = new Set(steps.filter(({ preset }) => preset).map(({ network }) => network));
  const spec = template("steps");
  const costs = rows.map(({ x }) => x);
  const across = { type: "log", domain: [Math.min(...costs) / 1.25, Math.max(...costs) * 1.25] };
  setChannel(spec, "x", { ...across, title: `${cost_label}, deployment scale` });
  setChannel(spec, "y", { ...rangeOf(rows.map(({ y }) => y)), title: `${axes[stepScore]}, proxy scale` });
  for (const { encoding } of spec.layer) {
    encoding.color.scale = { domain: networks, range: networkColours(networks, presets) };
    if (encoding.color.legend) encoding.color.legend.columns = stepsNode.clientWidth < 600 ? 2 : 6;
    if (encoding.shape) encoding.shape.legend.symbolFillColor = colour("ink");
  }
  spec.datasets = { steps: rows };
  spec.height = 380;
  spec.description = `Plot of ${stepScore} against the cost of a picture, a line a network, a point a number of steps. The table below has every point.`;
  return spec;
}

function startAfter() {
  if (!stepsNode) return;
  [stepScore] = data.after.metrics;
  const select = byId("after-score");
  select.append(...data.after.metrics.map((name) => make("option", { value: name }, `${name}: ${data.after.labels[name]}`)));
  select.addEventListener("change", () => { stepScore = select.value; draw(stepsNode, stepsSpec); });
  drawWhenNear(stepsNode, stepsSpec);
}
