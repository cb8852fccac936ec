// The network that is looked at: its pictures, scores, and the knobs that differ.

const panel = byId("looking");

function pictures(trial) {
  const found = data.pictures[trial.number];
  if (!found) return null;
  return make("img", {
    class: "pictures", src: `data:image/png;base64,${found.png}`, width: found.width, height: found.height,
    alt: `Sample pictures of ${trial.name}${found.captions.length ? `: ${found.captions.join(", ")}` : ""}`,
  });
}

// Knobs whose choice is not that of the reference: [name, choice, the reference's choice].
function differing(trial, reference = data.reference.point) {
  return data.knobs
    .map(({ name }) => [name, trial.point[name] ?? "–", reference[name] ?? "–"])
    .filter(([, own, other]) => own !== other);
}

function scoreRows(trial) {
  return data.scores.map(({ name }) => {
    const believed = trial.believed && trial.believed[name];
    const words = believed
      ? `${shown(name, believed[0])} (${shown(name, believed[1])} to ${shown(name, believed[2])})`
      : shownOf(trial, name);
    const measured = believed ? make("small", {}, make("br"), `one training: ${shown(name, trial.scores[name])}`) : null;
    return make("div", {}, make("dt", {}, name), make("dd", {}, words, measured));
  });
}

function tags(trial) {
  const words = [];
  if (trial.outcome !== "complete") words.push(trial.outcome);
  if (trial.preset) words.push("preset");
  if (trial.front) words.push("on the front");
  if (trial.outcome === "complete" && !trial.judged) words.push(`stopped after ${large.format(trial.budget)} pictures`);
  if (trial.chance !== null && trial.chance !== undefined) words.push(`on the front with probability ${trial.chance.toFixed(2)}`);
  if (trial.seeds > 1) words.push(`${trial.seeds} seeds`);
  if (trial.capped) words.push("ended by the cap on time");
  return make("ul", { class: "tags" }, words.map((word) => make("li", {}, word)));
}

function sameWords(trial) {
  if (!trial.same || !trial.same.length) return null;
  return make("p", {}, `Seeds alone could make it ${trial.same.map((other) => trials.get(other).name).join(" or ")}.`);
}

function pinButton(trial) {
  const letter = letterOf(trial.number);
  return make("button", { type: "button", on: { click: () => pin(trial.number) } },
    letter ? `Unpin ${letter.toUpperCase()}` : "Pin");
}

function showLooked() {
  const trial = trials.get(reader.looked);
  if (!trial) return panel.replaceChildren();
  const knobs = differing(trial);
  panel.hidden = false;
  panel.replaceChildren(
    make("h2", {}, trial.name), tags(trial),
    make("div", { class: "buttons" }, pinButton(trial),
      make("button", { type: "button", class: "close", on: { click: () => { panel.hidden = true; } } }, "Close")),
    ...[pictures(trial), sameWords(trial)].filter(Boolean),
    make("h3", {}, "Scores"), make("dl", {}, scoreRows(trial)),
    ...(trial.note ? [make("p", { class: "small" }, `≈ ${trial.note}`)] : []),
    ...(trial.reason ? [make("p", {}, trial.reason)] : []),
    make("h3", {}, `Knobs that differ from ${data.reference.name}`),
    knobs.length
      ? make("dl", {}, knobs.map(([name, own, other]) =>
        make("div", {}, make("dt", {}, name), make("dd", {}, own, make("small", {}, ` not ${other}`)))))
      : make("p", {}, "None."),
  );
}

const showLookedSoon = soon(showLooked);
watch("looked", showLookedSoon);
watch("pinned", showLookedSoon);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") panel.hidden = true;
});
