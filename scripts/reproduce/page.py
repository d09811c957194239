"""The page of a study: report.md with tables, and pictures next to it."""
import datetime
import math
import os
import statistics
import subprocess
import sys

from plan import ROOT, StudyError, write_json, write_text
from prepare import dataset
from results import Results, loss_of

NO_MATPLOTLIB = ("Pictures are left out: no Python with matplotlib was found. Install python3-matplotlib, or name a Python "
                 "in PYTHON, and run the same command again.")


def cell(values, digits=3):
    """"mean ± standard deviation" over the seeds; the value alone for one seed; empty without a value."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(each) for each in line) + " |\n" for line in lines)


class Page:
    def __init__(self, study):
        self.study, self.results = study, Results(study)
        self.own = study.fixed["config"]["model"]["block_counts"]
        self.block_size = study.fixed["config"]["model"]["block_size"]
        self.length = study.fixed["config"]["train"]["max_length"]
        self.python = python_with_matplotlib()

    def write(self):
        parts = [self.heading()]
        if self.results.found:
            parts += [self.losses(), self.budgets(), self.attention(), self.positions(), self.lengths(),
                      self.training()]
        parts.append(self.commands())
        file = self.study.directory / "report.md"
        write_text(file, "\n".join(part for part in parts if part))
        print(f"wrote {file}", flush=True)

    def heading(self):
        fixed, data = self.study.fixed, {split: dataset(self.study.data(split)) for split in ("train", "validation")}
        tokens = {split: sum(shard["tokens"] for shard in each["shards"]) for split, each in data.items()}
        model, tokenizer = fixed["config"]["model"], data["train"].get("tokenizer", {}).get("name", "?")
        text = (
            f"# Study: {fixed['size']}\n\n{datetime.date.today().isoformat()}. Every run was trained on "
            f"{fixed['tokens']:,} tokens ({fixed['steps']} steps), {fixed['tokens'] / tokens['train']:.2f} times the "
            f"{tokens['train']:,} tokens of training text. Runs of the same seed read the same sequences in the same "
            f"order with the same learning rate. Sequences have {self.length} tokens, sparse attention {self.own} blocks "
            f"of {self.block_size}. The model has {model['num_hidden_layers']} layers of width {model['hidden_size']} and "
            f"{data['train']['vocab_size']} token ids (tokenizer: {tokenizer}). The held-out text has "
            f"{tokens['validation']:,} tokens. Device: {fixed['device']}.\n\n"
            "Numbers are means over the seeds, ± their standard deviation; losses are nats per token.\n")
        if self.results.missing:
            text += f"\nNot complete, and not in the tables: {', '.join(self.results.missing)}.\n"
        if self.results.found and not self.python:
            text += f"\n{NO_MATPLOTLIB}\n"
        return text

    def picture(self, name, script, files, alt, *options):
        """Draws means over the seeds: {name of a curve: documents}."""
        files = {label: documents for label, documents in files.items() if documents}
        if not self.python or not files:
            return ""
        arguments = []
        for label, documents in files.items():
            file = self.study.directory / "figures/data" / f"{name}-{label}.json"
            write_json(file, documents)
            arguments.append(f"{label}={file}")
        return self.draw(name, alt, script, *arguments, *options)

    def draw(self, name, alt, script, *arguments):
        output = self.study.directory / "figures" / f"{name}.png"
        output.parent.mkdir(exist_ok=True)
        command = [self.python, ROOT / "scripts" / script, *arguments, "--output", output]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise StudyError(f"{script}: {done.stderr.strip()}")
        return f"\n![{alt}](figures/{name}.png)\n"

    def by_name(self, *evaluations):
        return {name: self.results.mean_documents(name, *evaluations) for name in self.results.found}

    def settings(self):
        """[(setting, name of the attention, runs that have it)]"""
        both = [(setting, attention, [name for name in self.results.found
                                      if self.results.documents(name, "own", setting)])
                for setting, attention in ((self.own, "sparse"), ("full", "full"))]
        return [each for each in both if each[2]]

    def losses(self):
        perplexity = lambda document: math.exp(loss_of(document))
        rows = []
        for name in self.results.found:
            values = lambda setting, of: cell(self.results.values(name, "own", setting, of))
            rows.append([name, len(self.results.seeds(name)), values(self.own, loss_of), values(self.own, perplexity),
                         values("full", loss_of), values("full", perplexity)])
        text = "## Held-out loss\n\n" + table(["run", "seeds", "loss, sparse attention", "perplexity, sparse",
                                               "loss, full attention", "perplexity, full"], rows)
        for setting, attention, names in self.settings():
            order = sorted(names, key=lambda name: statistics.fmean(self.results.values(name, "own", setting, loss_of)))
            text += f"\nUnder {attention} attention, lowest loss first: {', '.join(order)}.\n"
        return text

    def budgets(self):
        if "budgets" not in self.results.names:
            return ""
        counts = sorted(self.study.fixed["block_counts"])
        rows = []
        for name in self.results.found:
            values = lambda n: self.results.values(name, "own" if n == self.own else "budgets", n, loss_of)
            rows.append([name, *(cell(values(n)) for n in counts),
                         cell(self.results.values(name, "own", "full", loss_of))])
        text = ("## Loss against budget\n\nThe budget of sparse attention is the number of blocks that a query attends "
                f"to. All were trained with {self.own}.\n\n")
        text += table(["run", *(f"{n} blocks" for n in counts), "full attention"], rows)
        return text + self.picture("budgets", "plot_eval.py", self.by_name("own", "budgets"), "loss against budget")

    def attention(self):
        document = self.results.documents(next(iter(self.results.found)), "own", self.own)[0]["attention"]
        measures = ("selected_mass", "entropy", "sink", "divergence")
        rows = []
        for setting, attention, names in self.settings():
            for name in names:
                values = [self.results.values(name, "own", setting, lambda each: each["attention"]["mean"][measure])
                          for measure in measures]
                rows.append([name, attention, *map(cell, values)])
        text = (f"## Attention\n\nMeans over layers and heads, on {document['rows']} held-out sequences of "
                f"{document['tokens']} tokens, of the full attention's probabilities: the share inside the {self.own} "
                f"selected blocks, the entropy in nats, and the share on the first {document['sink_tokens']} tokens. "
                "The distance is that of the sparse attention's output from the full attention's, relative to the "
                "latter. \"Passed on\" is the attention whose output the next layer gets; for nsa it is the sum of its "
                "branches.\n\n")
        text += table(["run", "passed on", "selected mass", "entropy", "sink share", "distance"], rows)
        for measure, title in (("selected_mass", "Selected mass"), ("entropy", "Entropy"), ("sink", "Sink share")):
            text += f"\n{title} by layer, sparse attention passed on:\n\n" + self.by_layer(measure)
        return text + self.picture("attention", "plot_attention.py", self.by_name("own"), "attention by layer")

    def by_layer(self, measure):
        layers = range(self.study.fixed["config"]["model"]["num_hidden_layers"])
        value = lambda layer: lambda document: document["attention"]["layers"][layer][measure]
        return table(["run", *layers], [
            [name, *(cell(self.results.values(name, "own", self.own, value(layer))) for layer in layers)]
            for name in self.results.found])

    def positions(self):
        text = "## Loss by position\n\nBy the number of tokens of its document that a token has before it in the sequence.\n"
        for setting, attention, names in self.settings():
            text += f"\nUnder {attention} attention:\n\n" + self.position_table("own", setting, names)
        return text + self.picture("positions", "plot_positions.py", self.by_name("own"), "loss by position")

    def position_table(self, evaluation, setting, names):
        buckets = {name: self.results.values(name, evaluation, setting, lambda document: document["loss_by_position"])
                   for name in names}
        ranges = max((seed for seeds in buckets.values() for seed in seeds), key=len, default=[])
        rows = []
        for k, bucket in enumerate(ranges):
            values = lambda name: [seed[k]["loss"] for seed in buckets[name] if seed[k]["loss"] is not None]
            rows.append([range_text(bucket), bucket["tokens"], *(cell(values(name)) for name in names)])
        return table(["tokens before", "tokens measured", *names], rows)

    def lengths(self):
        names = [name for name in self.results.names if name.startswith("length-")]
        heading = "## Longer texts than in training\n\n"
        if not names:
            return heading + f"Not measured: no held-out document has {2 * self.length} tokens.\n"
        longest = max(int(name.split("-")[1]) for name in names)
        text = heading + (f"Held-out documents of at least {longest * self.length} tokens, in sequences "
                          f"of {self.length} tokens and of multiples of it. Scaled: the rotary frequencies are scaled as "
                          "llama3 does (`--rope-scaling`), by the same factor.\n")
        columns = [f"{int(name.split('-')[1]) * self.length} tokens" + (", scaled" if "scaled" in name else "")
                   for name in names]
        for setting, attention, runs in self.settings():
            text += f"\nLoss under {attention} attention:\n\n" + table(["run", *columns], [
                [name, *(cell(self.results.values(name, each, setting, loss_of)) for each in names)] for name in runs])
        for scaled in ("", "-scaled"):
            each = f"length-{longest}{scaled}"
            title = f"By position, {longest * self.length} tokens" + (", scaled" if scaled else "")
            text += f"\n{title}, sparse attention:\n\n" + self.position_table(each, self.own, list(self.results.found))
            text += self.picture(each, "plot_positions.py", self.by_name(each), f"loss by position, {each}")
        return text

    def training(self):
        rows = []
        for name in self.results.found:
            for seed, values in sorted(self.results.training[name].items()):
                speed = values["tokens_per_second"]
                rows.append([name, seed, f"{values['seconds']:.0f}", f"{speed:,.0f}" if speed else ""])
        text = ("## Training\n\nSeconds include loading, evaluation during the training, and checkpoints, of the last "
                "start of the run; tokens per second are the median over its steps.\n\n")
        text += table(["run", "seed", "seconds", "tokens/s"], rows)
        if self.python:
            seed = min(min(self.results.seeds(name)) for name in self.results.found)
            runs = [self.study.run_directory(name, seed) for name in self.results.found
                    if seed in self.results.seeds(name)]
            text += self.draw("training", f"curves of the runs with seed {seed}", "plot_run.py", *runs)
        return text

    def commands(self):
        text = "## Commands\n\n```\n" + "\n".join(self.study.commands) + "\n```\n\nThe runs differ in these keys:\n\n"
        text += table(["run", "seeds", "keys"], [
            [name, ", ".join(map(str, run["seeds"])), " ".join(f"`{each}`" for each in run["settings"])]
            for name, run in self.study.runs.items()])
        return text


def range_text(bucket):
    return str(bucket["from"]) if bucket["from"] == bucket["to"] else f"{bucket['from']}-{bucket['to']}"


def python_with_matplotlib():
    """The Python that PYTHON names, or else this one or the distribution's; None where there is no matplotlib."""
    named = os.environ.get("PYTHON")
    for candidate in [named] if named else [sys.executable, "/usr/bin/python3"]:
        try:
            if subprocess.run([candidate, "-c", "import matplotlib"], capture_output=True).returncode == 0:
                return candidate
        except OSError:
            continue
    return None


def write(study):
    Page(study).write()
