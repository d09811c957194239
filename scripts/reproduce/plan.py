"""What a study computes: its sizes, its runs, and the file that keeps both while the study is interrupted."""
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class StudyError(Exception):
    """A failure that is told in one line, with the exit code."""

    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def wrong_usage(message):
    return StudyError(f"{message}; see scripts/reproduce/run.sh --help", 2)


@dataclass(frozen=True)
class Size:
    config: str  # in configs/
    tokens: int  # per run
    seeds: tuple
    windows: tuple  # of nsa
    block_counts: tuple  # of the curve of loss against budget
    corpus: str  # the text if none is named: perl or debian
    held_out: float  # fraction of the documents
    on_gpu: bool


SIZES = {
    "minute": Size("tiny.json", 614_400, (42,), (32, 128), (1, 2, 4, 8, 16), "perl", 0.05, False),
    "hour": Size("ssa-110m.json", 131_072_000, (42,), (128, 512), (4, 8, 16, 32, 64), "debian", 0.01, True),
    "night": Size("ssa-110m.json", 301_989_888, (42, 43, 44), (128, 512), (4, 8, 16, 32, 64), "debian", 0.01, True),
}
METHODS = ("ssa", "moba", "nsa", "full")
LENGTHS = (1, 2, 4)  # times the length of training


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise StudyError(f"{path}: not JSON ({error})") from None


def write_json(path, value):
    """Writes next to the file and renames, so that a file that exists is complete."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path, text):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def settings_of_method(name, size):
    """{run name: [KEY=VALUE]} of one item of --methods. nsa stands for each of the size's windows."""
    if name == "nsa":
        return {k: v for window in size.windows for k, v in settings_of_method(f"nsa-{window}", size).items()}
    window = re.fullmatch(r"nsa-(\d+)", name)
    if window:
        return {name: ["attention.method=nsa", f"model.window_size={window[1]}"]}
    if name not in METHODS:
        raise wrong_usage(f"--methods {name}: expected {', '.join(METHODS)} or nsa-WINDOW")
    return {name: [f"attention.method={name}"]}


def split_at_commas(text):
    """The parts between the commas outside of JSON's brackets, braces and strings; None if these do not close."""
    parts, closing, quoted, escaped = [""], [], False, False
    for character in text:
        if character == "," and not closing and not quoted:
            parts.append("")
            continue
        parts[-1] += character
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            closing.append("]" if character == "[" else "}")
        elif character in "]}" and (not closing or closing.pop() != character):
            return None
    return None if closing or quoted else parts


def settings_of_variant(text, size):
    """{NAME: [KEY=VALUE]} of --variant NAME=METHOD,KEY=VALUE,... A value may be JSON with commas."""
    name, equals, rest = text.partition("=")
    parts = split_at_commas(rest)
    if parts is None:
        raise wrong_usage(f"--variant {text}: a bracket, brace or quote is not closed, expected "
                          "NAME=METHOD,KEY=VALUE,... with values in JSON")
    method, *settings = parts
    if not equals or not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not all("=" in each for each in settings):
        raise wrong_usage(f"--variant {text}: expected NAME=METHOD,KEY=VALUE,...")
    found = settings_of_method(method, size)
    if len(found) != 1:
        raise wrong_usage(f"--variant {text}: {method} has several windows, expected nsa-WINDOW")
    if name in found or name in METHODS or name.startswith("nsa-"):
        raise wrong_usage(f"--variant {text}: {name} is the name of a method, expected another name")
    return {name: [*found.popitem()[1], *settings]}


class Study:
    """A directory with study.json: "fixed" decides what each number means and never changes; "runs" may grow."""

    def __init__(self, directory):
        self.directory = Path(directory).resolve()
        self.file = self.directory / "study.json"
        saved = read_json(self.file) if self.file.exists() else {}
        kinds = {"fixed": dict, "runs": dict, "commands": list}
        if not isinstance(saved, dict) or not all(isinstance(saved.get(key, kind()), kind) for key, kind in kinds.items()):
            raise StudyError(f"{self.file}: damaged, expected objects fixed and runs and a list commands", 2)
        self.fixed, self.runs, self.commands = (saved.get(key, none) for key, none in
                                                (("fixed", {}), ("runs", {}), ("commands", [])))

    def extend(self, fixed, runs, seeds, command):
        """Adds runs; a StudyError if the directory holds a study of other arguments."""
        for key, value in fixed.items():
            if self.fixed.get(key, value) != value:
                raise StudyError(f"{self.file}: made with {key} {shown(self.fixed[key])}, found {shown(value)}; "
                                 "expected the same, or another --out", 2)
        for name, settings in runs.items():
            run = self.runs.get(name, {"settings": settings, "seeds": []})
            if run["settings"] != settings:
                raise StudyError(f"{self.file}: {name} was made with {' '.join(run['settings'])}, found "
                                 f"{' '.join(settings)}; expected the same, or another name", 2)
            run["seeds"] += [seed for seed in seeds if seed not in run["seeds"]]
            self.runs[name] = run
        self.fixed = fixed
        self.commands += [command] if command not in self.commands else []
        self.save()

    def forget(self, name, command):
        """Removes a run that cannot start, and the command that added it."""
        del self.runs[name]
        self.commands = [each for each in self.commands if each != command]
        self.save()

    def save(self):
        write_json(self.file, {"fixed": self.fixed, "runs": self.runs, "commands": self.commands})

    def names(self):
        """[(run name, seed)], seed by seed, so that an interrupted study has every method of its first seeds."""
        seeds = sorted({seed for run in self.runs.values() for seed in run["seeds"]})
        return [(name, seed) for seed in seeds for name, run in self.runs.items() if seed in run["seeds"]]

    def run_directory(self, name, seed):
        return self.directory / "runs" / f"{name}-seed{seed}"

    def results(self, name, seed):
        return self.directory / "results" / f"{name}-seed{seed}"

    def data(self, split):
        """The tokenized data: "train" or "validation"."""
        directory = Path(self.fixed["data"]) if self.fixed["data"] else self.directory / "data"
        return directory / split_name(directory, split)


def split_name(directory, split):
    """Held-out data is in validation/ or eval/."""
    missing = split == "validation" and not (Path(directory) / split).is_dir()
    return "eval" if missing and (Path(directory) / "eval").is_dir() else split


def shown(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
