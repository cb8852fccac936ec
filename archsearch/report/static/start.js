// The page begins: first what can be read at once, then what has to be drawn.

function start() {
  if (complete.length) {
    startChoose();
    const choice = reader.choice;
    const compared = data.reference.trial === null ? [choice] : [data.reference.trial, choice];
    [...new Set(compared)].forEach((trial, i) => { reader.pinned[i] = trial; });
    startFront();
    startCompare();
    if (matchMedia("(min-width: 1100px)").matches) look(choice);
    tell("pinned");
  } else {
    document.querySelectorAll(".needs-trials").forEach((node) =>
      node.replaceChildren(make("p", {}, "No trial has scores yet.")));
  }
  startTrials();
  startKnobs();
  startAfter();
}

requestAnimationFrame(() => setTimeout(start)); // once the words are on the screen
