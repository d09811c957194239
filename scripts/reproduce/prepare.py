"""The programs and the tokenized data of a study: built, fetched and tokenized unless they are there."""
import os
import shutil
import struct
import subprocess
from pathlib import Path

from plan import ROOT, StudyError, read_json, wrong_usage

PROGRAMS = ("ssa_train", "ssa_eval")
HELD_OUT_BYTES = 8000  # of a manual: a minute's study evaluates them 16 times per run


def say(text):
    print(f"== {text}", flush=True)


def call(what, *command, log=None):
    """Runs a command of which `what` is the purpose; its output goes to the terminal, or to the end of a file."""
    output = open(log, "ab") if log else None
    try:
        code = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=output, stderr=output).returncode
    except OSError as error:
        raise StudyError(f"{what}: {command[0]}: {error.strerror}") from None
    finally:
        if output:
            output.close()
    if code != 0:
        raise StudyError(f"{what} failed with exit code {code}{f': {last_line(log)} ({log})' if log else ''}")


def last_line(file):
    lines = Path(file).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def programs(directory, parquet, log):
    """The directory of the programs: `directory`, or those installed with these scripts, or else a build in build/."""
    if not directory and not (ROOT / "CMakeLists.txt").exists():
        directory = ROOT.parent.parent / "bin"
    if directory:
        for program in PROGRAMS:
            if not os.access(Path(directory) / program, os.X_OK):
                raise wrong_usage(f"--bin {directory}: there is no program {program}")
        return Path(directory).resolve()
    say(f"building (log: {log})")
    call("installing packages", ROOT / "scripts/install.sh", *(["python3-venv"] if parquet else []), log=log)
    options = ["-DBUILD_TESTING=OFF"]
    if shutil.which("ccache"):
        options += ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", "-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache"]
    if parquet:
        python = ROOT / "build/pyarrow/bin/python"
        if not python.exists():
            call("making a Python environment for pyarrow", "python3", "-m", "venv", ROOT / "build/pyarrow", log=log)
        call("installing pyarrow", python, "-m", "pip", "install", "-q", "pyarrow", log=log)
        options += ["-DSSA_PARQUET=ON", f"-DSSA_PYTHON={python}"]
    call("configuring the build", "cmake", "--preset", "release", *options, log=log)
    call("the build", "cmake", "--build", "--preset", "release", log=log)
    return ROOT / "build/bin"


def make_corpus(kind, directory, log):
    """Text of the distribution's packages in `directory`, whole or not at all."""
    if directory.exists():
        return
    new = directory.with_name(directory.name + ".new")
    if kind == "perl":
        shutil.rmtree(new, ignore_errors=True)
        say("fetching the Perl manuals (package perl-doc)")
        call("fetching the Perl manuals", ROOT / "scripts/perl_manuals.sh", new, HELD_OUT_BYTES, log=log)
    else:
        for file in new.glob("*.jsonl"):  # of an interrupted call, whose packages are kept
            file.unlink()
        say("making text of Debian's documentation packages")
        call("making the corpus", ROOT / "scripts/debian_corpus.sh", new, "--keep-packages")
        shutil.rmtree(new / "packages")
    new.replace(directory)


def is_tokenized(directory):
    """Whether ssa_tokenize has finished this dataset; it keeps job.json, in the --output directory, until then."""
    unfinished = any((place / "job.json").exists() for place in (directory, directory.parent))
    return (directory / "dataset.json").exists() and not unfinished


def tokenize(study, binaries):
    """data/train and data/validation from the corpus. The same command continues an interrupted job."""
    data, corpus = study.directory / "data", study.fixed["corpus"]
    if is_tokenized(data / "train") and is_tokenized(data / "validation"):
        return
    program = binaries / "ssa_tokenize"
    if not os.access(program, os.X_OK):
        raise wrong_usage(f"{program}: no such program, expected it in --bin, or tokenized data in --data")
    text = study.directory / "corpus"
    if corpus in ("perl", "debian"):
        make_corpus(corpus, text, study.directory / "corpus.log")
    say("tokenizing")
    command = [program, "--tokenizer", study.fixed["tokenizer"], "--input"]
    if corpus == "perl":
        for source, split in (("train", "train"), ("eval", "validation")):
            if not is_tokenized(data / split):
                call("tokenizing", *command, text / source, "--output", data / split)
    else:
        inputs = sorted(text.glob("*.jsonl")) if corpus == "debian" else corpus
        call("tokenizing", *command, *inputs, "--output", data, "--validation-fraction", study.fixed["held_out"])
    for split in ("train", "validation"):
        if sum(shard["documents"] for shard in dataset(data / split)["shards"]) == 0:
            raise StudyError(f"{data / split}: no document, expected more documents in the corpus (a text file or a "
                             "line of JSON is one)")


def dataset(directory):
    """dataset.json of tokenized data."""
    file = Path(directory) / "dataset.json"
    found = read_json(file)
    for key in ("vocab_size", "eos_token_id", "shards"):
        if key not in found:
            raise StudyError(f"{file}: no {key}, expected what ssa_tokenize writes")
    return found


def document_lengths(directory):
    """The lengths of the documents in tokens, from the .idx files (Megatron-LM's indexed dataset)."""
    lengths = []
    for file in sorted(Path(directory).glob("*.idx")):
        with open(file, "rb") as stream:
            if stream.read(9) != b"MMIDIDX\x00\x00":
                raise StudyError(f"{file}: not an index of tokenized data")
            _, _, sequences, _ = struct.unpack("<QBQQ", stream.read(25))
            lengths += struct.unpack(f"<{sequences}i", stream.read(4 * sequences))
    return lengths
