// Drawing a template of Vega-Lite in the page's own colours, by vega-embed's interpreter, which needs
// no code to be made from text.

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map(); // by node: how to draw it, and what vega-embed made

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function theme() {
  const [ink, soft, line] = ["ink", "soft", "line"].map(colour);
  const style = {};
  for (const [name, values] of Object.entries(drawings.styles)) {
    style[name] = { ...values };
    for (const key of ["color", "stroke"]) {
      if (values[key]) style[name][key] = colour(drawings.palette[values[key]]);
    }
  }
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: "transparent", font, style,
    view: { stroke: null },
    axis: {
      labelColor: soft, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
      labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", gridOpacity: 0.7, titlePadding: 10,
    },
    legend: { labelColor: ink, titleColor: ink, labelFontSize: 12 },
    range: { category: ["accent", "preset", "b", "a", "d", "c"].map(colour) },
  };
}

// Draw what `specify` gives into a node; again where the scheme of colours changes.
async function draw(node, specify) {
  const before = drawn.get(node);
  const mine = { specify, view: null };
  drawn.set(node, mine);
  if (before && before.view) before.view.finalize();
  const spec = { ...specify(), autosize: { type: "fit-x", contains: "padding" } };
  const made = await vegaEmbed(node, spec, {
    ast: true, actions: false, renderer: "canvas", defaultStyle: false, tooltip: false, hover: false,
    mode: "vega-lite", config: theme(),
  });
  if (drawn.get(node) === mine) mine.view = made.view;
  else made.view.finalize();
}

const viewOf = (node) => drawn.get(node) && drawn.get(node).view;

dark.addEventListener("change", () => {
  for (const [node, { specify }] of drawn) draw(node, specify);
});

// Draw a plot when it comes near the window, so that the page itself is there at once.
function drawWhenNear(node, specify) {
  const near = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    near.disconnect();
    draw(node, specify);
  }, { rootMargin: "400px" });
  near.observe(node);
}

const template = (name) => structuredClone(drawings.specs[name]);

// Set title and range of a channel in every layer that has it.
function setChannel(spec, channel, { title, domain, type = "linear" }) {
  for (const layer of spec.layer) {
    const of = layer.encoding && layer.encoding[channel];
    if (of) Object.assign(of, { title, axis: { tickCount: 7 }, scale: { type, domain, nice: false, ...(type === "log" ? {} : { zero: false }) } });
  }
}

// The range of values, with some room beside them; by logarithm where they differ by much.
function rangeOf(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (low > 0 && high / low > 20) return { type: "log", domain: [low / 1.2, high * 1.2] };
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return { type: "linear", domain: [low - room, high + room] };
}
