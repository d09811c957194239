"""The results of the complete runs of a study: read, and averaged over seeds."""
import math
import statistics

from plan import read_json
from runs import evaluations, trained


def documents_of(path):
    """ssa_eval writes an object for one setting and an array for several."""
    found = read_json(path)
    return found if isinstance(found, list) else [found]


def setting_of(document):
    """"full", or the number of blocks of sparse attention."""
    model = document["config"]["model_args"]
    return "full" if model["mode"] == "full" else model["block_counts"]


def loss_of(document):
    return next(iter(document["results"].values()))["loss,none"]


class Results:
    """found[name][seed][evaluation] is {setting: document of ssa_eval}, of the trained runs that have the evaluation "own".
    missing has what is not there: a run, or a run and an evaluation."""

    def __init__(self, study):
        self.names = [name for name, _ in evaluations(study)]
        self.found, self.training, self.missing = {}, {}, []
        for name, seed in study.names():
            files = {each: study.results(name, seed) / f"{each}.json" for each in self.names}
            if not trained(study, name, seed) or not files["own"].exists():
                self.missing.append(f"{name} seed {seed}")
                continue
            self.missing += [f"{name} seed {seed} {each}" for each, file in files.items() if not file.exists()]
            self.training.setdefault(name, {})[seed] = trained(study, name, seed)
            self.found.setdefault(name, {})[seed] = {
                each: {setting_of(document): document for document in documents_of(file)}
                for each, file in files.items() if file.exists()}
        # The runs in the order in which they were asked for.
        self.found = {name: self.found[name] for name in study.runs if name in self.found}

    def seeds(self, name):
        return sorted(self.found[name])

    def documents(self, name, evaluation, setting):
        """One document per seed that has the evaluation; [] if the method does not have the setting."""
        runs = [run[evaluation] for _, run in sorted(self.found[name].items()) if evaluation in run]
        return [run[setting] for run in runs if setting in run]

    def values(self, name, evaluation, setting, value_of):
        return [value_of(document) for document in self.documents(name, evaluation, setting)]

    def mean_documents(self, name, *names):
        """The documents of evaluations, each averaged over the seeds, as one file for the plot scripts."""
        settings = {(each, setting): None for each in names for run in self.found[name].values()
                    for setting in run.get(each, {})}  # a dict keeps the order
        return [mean_document(self.documents(name, each, setting)) for each, setting in settings]


def mean_document(documents):
    """With the standard error of the mean over the seeds as the loss's standard error."""
    document = mean(documents)
    losses = [loss_of(each) for each in documents]
    if len(losses) > 1:
        next(iter(document["results"].values()))["loss_stderr,none"] = statistics.stdev(losses) / math.sqrt(len(losses))
    return document


def mean(values):
    """Of numbers; of objects and arrays member by member; anything else is the first one."""
    first = values[0]
    if isinstance(first, dict):
        return {key: mean([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [mean(list(each)) for each in zip(*values)]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return statistics.fmean(values) if len(values) > 1 else first
    return first
