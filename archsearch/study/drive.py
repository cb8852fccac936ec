"""Ask and tell as lines of JSON, so that any program can be the sampler of a study.

Each request is an object with one key, each answer an object on one line:

    {"space": {}}                                          the dimensions and their values
    {"ask": {}}                                            a candidate of the study's own sampler
    {"ask": {"point": {"width": 320, "layers": "sa+ca"}}}  a candidate at this point
    {"tell": {"trial": 3}}                                 train its proxy, as a worker does
    {"tell": {"trial": 3, "scores": {"val_loss": 0.21}}}   its scores, from outside
    {"tell": {"trial": 3, "outcome": "diverged"}}          it came to nothing
    {"front": {}}                                          the Pareto front so far

What is wrong with a request is answered, and ends nothing.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError

from archsearch.diffusion.recipe import is_out_of_memory
from archsearch.diffusion.trainer import TrainingMemoryError
from archsearch.errors import ArchsearchError, InputError, nearest
from archsearch.search_space.space import label
from archsearch.study.notes import FINAL_OUTCOMES, notes_of, outcome
from archsearch.study.results import Results
from archsearch.study.setting import Candidate, InfeasibleError
from archsearch.study.spec import SCORES, is_score
from archsearch.study.trials import Asked
from archsearch.study.worker import run_trial

Answer = dict[str, Any]


class Driver:
    """Answers requests about one run.

    Args:
        results: Of the run.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.trials, self.setting = results, results.trials, results.setting
        self.asked: dict[int, Asked] = {}
        """Trials that were asked for here and not told yet."""
        self._verbs: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "ask": self._ask,
            "tell": self._tell,
            "front": self._front,
            "space": self._space,
        }

    def answers(self, lines: Iterable[str | bytes]) -> Iterator[Answer]:
        """Answer each line that is not blank, in turn. At the end, however it comes, trials that
        were asked for and not told are given back: they are queued again.
        """
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield self._answer(number, line)
        finally:
            for number in self.asked:
                self.trials.give_back(number)
            self.asked.clear()

    def _answer(self, number: int, line: str | bytes) -> Answer:
        try:
            verb, given = _parsed(line, tuple(self._verbs))
            return self._verbs[verb](given)
        except ArchsearchError as error:
            return {"error": str(error), "line": number}

    # Requests

    def _ask(self, given: dict[str, Any]) -> Answer:
        _only(given, "ask", ("point",))
        point = given.get("point")
        if point is not None and not isinstance(point, dict):
            raise InputError(f"ask.point must be an object of labels, but got {json.dumps(point)}.")
        if point is None:
            asked = self.trials.ask()
            assert asked is not None  # without a target there is always another
        else:
            try:
                asked = self.trials.ask_at(self.setting.space.labelled(point))
            except InputError as error:
                raise InputError(f"ask.point: {error}") from error
            except InfeasibleError as error:
                told = {"outcome": error.outcome, "reason": str(error)}
                return {"infeasible": {**error.costs, **told}}
        self.asked[asked.number] = asked
        return {"trial": asked.number, **_described(asked.candidate)}

    def _tell(self, given: dict[str, Any]) -> Answer:
        _only(given, "tell", ("trial", "scores", "outcome", "reason"))
        number = given.get("trial")
        asked = self.asked.get(number) if type(number) is int else None
        if asked is None:
            open_ones = ", ".join(map(str, self.asked)) or "none"
            raise InputError(
                f"tell.trial must be a trial that was asked for here and not told yet, but got "
                f"{json.dumps(number)}. These are: {open_ones}."
            )
        if "outcome" in given and (given["outcome"] not in FINAL_OUTCOMES or "scores" in given):
            raise InputError(
                f"tell.outcome must be one of {', '.join(FINAL_OUTCOMES)}, and stand without "
                f"scores, but got {json.dumps(given['outcome'])}."
            )
        try:
            if "outcome" in given:
                reason = str(given.get("reason", "told from outside"))
                self.trials.end(asked.number, given["outcome"], reason)
            elif "scores" in given:
                self.trials.tell(asked.trial, _scores(given["scores"]))
            else:
                self._train(asked)
        except UpdateFinishedTrialError as error:  # the machine slept, say, and it runs elsewhere
            del self.asked[asked.number]
            raise ArchsearchError(f"tell: trial {asked.number} was ended elsewhere.") from error
        del self.asked[asked.number]
        return self._ended(asked.number)

    def _train(self, asked: Asked) -> None:
        try:
            run_trial(self.trials, asked)
        except Exception as error:
            if not isinstance(error, TrainingMemoryError) and not is_out_of_memory(error):
                raise
            self.trials.end(asked.number, TrainingMemoryError.outcome, str(error))

    def _ended(self, number: int) -> Answer:
        """How a trial has ended."""
        trial = self.trials.all()[number]
        if (how := outcome(trial)) != "complete":
            reason = str(notes_of(trial).get("reason", ""))
            return {"trial": number, "outcome": how, "reason": reason}
        scores = {name: value for name, value in notes_of(trial).items() if is_score(name)}
        return {"trial": number, "scores": scores}

    def _front(self, given: dict[str, Any]) -> Answer:
        _only(given, "front", ())
        members = [
            {"trial": m.number, "point": m.point, "scores": m.scores, "digest": m.digest}
            for m in self.results.front()
        ]
        return {"front": members, "finished": self.trials.finished()}

    def _space(self, given: dict[str, Any]) -> Answer:
        _only(given, "space", ())
        dimensions = {
            name: {"values": [label(value) for value in dimension.values], "when": dimension.when}
            for name, dimension in self.setting.space.dimensions.items()
        }
        spec = self.setting.spec
        return {
            "space": dimensions,
            "objectives": spec.objectives,
            "limits": spec.to_dict()["limits"],
        }


def _parsed(line: str | bytes, verbs: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The verb of a request, and what is given with it."""
    form = 'A request is an object with one key, such as {"ask": {}}; allowed are ' + ", ".join(
        verbs
    )
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: bytes that are no text, too
        raise InputError(f"The line is not JSON: {error}. {form}.") from error
    if not isinstance(request, dict) or len(request) != 1:
        raise InputError(f"The line is JSON, but not a request. {form}.")
    ((verb, given),) = request.items()
    if verb not in verbs:
        raise InputError(f"'{verb}' is not a request.{nearest(verb, verbs)} {form}.")
    if not isinstance(given, dict):
        raise InputError(f"{verb} must be an object, but got {json.dumps(given)}.")
    return verb, given


def _only(given: Mapping[str, Any], verb: str, allowed: tuple[str, ...]) -> None:
    """Refuse keys that a request does not have."""
    for key in given:
        if key not in allowed:
            known = f"Allowed are: {', '.join(allowed)}" if allowed else "It takes none"
            raise InputError(f"{verb}.{key}: is not a known key.{nearest(key, allowed)} {known}.")


def _scores(given: Any) -> dict[str, float]:
    """Scores from outside: known names, finite numbers."""
    if not isinstance(given, dict):
        raise InputError(f"tell.scores must be an object, but got {json.dumps(given)}.")
    for name, value in given.items():
        if not is_score(name):
            raise InputError(
                f"tell.scores: '{name}' is not a known score.{nearest(name, SCORES)} Allowed are: "
                f"{', '.join(SCORES)}, and latency_ms[TABLE]."
            )
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise InputError(
                f"tell.scores.{name} must be a finite number, but got {json.dumps(value)}."
            )
    return {name: float(value) for name, value in given.items()}


def _described(candidate: Candidate) -> Answer:
    """A candidate as it is answered."""
    return {
        "point": {name: label(value) for name, value in candidate.point.items()},
        "costs": candidate.costs.scores,
        "digest": candidate.network.digest,
    }
