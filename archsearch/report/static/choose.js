// Sliders on limits and weights: they narrow the front, and name the choice and its command.

const STOPS = 200; // of a slider at most

function slider(id, title, stops, at, words, act) {
  const output = make("output", { for: id }, words(at));
  const input = make("input", { type: "range", id, min: 0, max: stops, step: 1, value: at, "aria-valuetext": words(at) });
  input.addEventListener("input", () => {
    const value = Number(input.value);
    output.textContent = words(value);
    input.setAttribute("aria-valuetext", words(value));
    act(value);
  });
  return make("div", { class: "slider" }, make("label", { for: id }, title, output), input);
}

// Values of a score that networks have, each once; of very many, evenly spaced ones.
function stopsOf(name) {
  const values = [...new Set(complete.filter((trial) => trial.judged).map((trial) => valueOf(trial, name)).filter((value) => value !== null))];
  values.sort((one, other) => one - other);
  if (values.length <= STOPS) return values;
  return Array.from({ length: STOPS }, (_, i) => values[Math.round((i * (values.length - 1)) / (STOPS - 1))]);
}

function limitSlider({ name }) {
  const stops = stopsOf(name);
  if (stops.length < 2) return null;
  const less = isLess(name);
  const loosest = less ? stops.length - 1 : 0;
  const words = (at) => (at === loosest ? "no limit" : `${less ? "≤" : "≥"} ${shown(name, stops[at])}`);
  return slider(`limit-${name}`, name, stops.length - 1, loosest, words, (at) => {
    if (at === loosest) reader.limits.delete(name);
    else reader.limits.set(name, stops[at]);
    chooseSoon();
  });
}

function weightSlider(name) {
  return slider(`weight-${name}`, name, 10, 5, String, (at) => {
    reader.weights.set(name, at);
    chooseSoon();
  });
}

// The member closest to the best value of every objective, each scaled over the front and weighted:
// with equal weights what `archsearch export --knee` takes.
function closest(members) {
  const ranges = objectives.map((name) => {
    const values = members.map((trial) => signed(trial, name));
    return [name, Math.min(...values), Math.max(...values)];
  });
  const apart = (trial) => ranges.reduce((sum, [name, low, high]) =>
    sum + (high > low ? reader.weights.get(name) * ((signed(trial, name) - low) / (high - low)) ** 2 : 0), 0);
  return members.reduce((best, trial) => (best === null || apart(trial) < apart(best) ? trial : best), null);
}

function chooseNow() {
  const judged = complete.filter((trial) => trial.judged && objectives.every((name) => valueOf(trial, name) !== null));
  const members = reader.limits.size
    ? undominated(judged.filter(withinLimits), objectives)
    : complete.filter((trial) => trial.front);
  if (data.cost) members.sort((one, other) => valueOf(one, data.cost) - valueOf(other, data.cost));
  reader.front = new Set(members.map((trial) => trial.number));
  const choice = closest(members);
  reader.choice = choice && choice.number;
  const limits = [...reader.limits].map(([name, value]) => `${name} ${isLess(name) ? "≤" : "≥"} ${shown(name, value)}`);
  const weights = new Set(reader.weights.values());
  const by = weights.size > 1
    ? `with weights ${objectives.map((name) => `${reader.weights.get(name)} for ${name}`).join(", ")}`
    : "with equal weights";
  byId("choose-words").textContent = choice
    ? `${members.length} ${members.length === 1 ? "network is" : "networks are"} on the front${limits.length ? ` with ${limits.join(", ")}` : ""}. `
      + `The choice ${by} is ${choice.name}: ${objectives.map((name) => `${name} ${shownOf(choice, name)}`).join(", ")}.`
    : `No network has ${limits.join(", ")}.`;
  byId("choose-left").replaceChildren(...members.slice(0, 40).map((trial) => make("li", {}, networkButton(trial))));
  byId("choose-command").textContent = choice
    ? `${data.command} ${choice.number} --format yaml --output trial-${choice.number}.yaml`
    : "";
  byId("choose-copy").disabled = !choice;
  tell("chosen");
}

const chooseSoon = soon(chooseNow);

async function copyCommand() {
  const code = byId("choose-command");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) return say("The command could not be copied; it is marked.");
  }
  byId("choose-copy").textContent = "Copied";
  say("The command is copied.");
  setTimeout(() => { byId("choose-copy").textContent = "Copy"; }, 2000);
}

function startChoose() {
  const sliders = () => {
    byId("choose-limits").replaceChildren(...data.scores.map(limitSlider).filter(Boolean));
    byId("choose-weights").replaceChildren(...objectives.map(weightSlider));
  };
  sliders();
  byId("choose-form").addEventListener("reset", (event) => {
    event.preventDefault();
    reader.limits.clear();
    objectives.forEach((name) => reader.weights.set(name, 5));
    sliders();
    chooseNow();
  });
  byId("choose-form").addEventListener("submit", (event) => event.preventDefault());
  byId("choose-copy").addEventListener("click", copyCommand);
  chooseNow();
}
