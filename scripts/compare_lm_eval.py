#!/usr/bin/env python3
"""Compares ssa_eval with lm-evaluation-harness on one trained model and the same local files, in float32 on the CPU.

Exports the model (ssa_export --dtype f32) and runs the harness's `hf` model and ssa_eval on the exported directory,
with sparse and with full attention. Prints the largest differences; they are relative for perplexities and
log-likelihoods of whole pages above 1. Exit code 1 when a difference is above --tolerance, or any prompt or generated
answer differs.

Needs `pip install lm_eval[hf]`, and lm_eval[hf,ruler,longbench] for RULER and LongBench, whose --max-length must be above
the 512 tokens of a summary. Without --task-dir it writes a few documents per task itself.

Examples:
  python scripts/compare_lm_eval.py runs/tiny --num-fewshot 2
  python scripts/compare_lm_eval.py runs/tiny --tasks ruler,longbench,longbench_e --max-length 1000
"""
import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASKS = ["arc_easy", "arc_challenge", "piqa", "hellaswag", "lambada_openai", "wikitext"]
YAML = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "wikitext": "wikitext/wikitext.yaml",
}
RULER = {  # the yaml file of each task
    **{f"niah_{kind}": f"niah_{kind}" for kind in (
        "single_1", "single_2", "single_3", "multikey_1", "multikey_2", "multikey_3", "multivalue", "multiquery")},
    "ruler_vt": "vt", "ruler_cwe": "cwe", "ruler_fwe": "fwe", "ruler_qa_squad": "qa_squad", "ruler_qa_hotpot": "qa_hotpot",
}
LONGBENCH = ["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "gov_report", "qmsum",
             "multi_news", "trec", "triviaqa", "samsum", "passage_count", "passage_retrieval_en", "lcc", "repobench-p"]
GROUPS = {
    "ruler": list(RULER),
    "longbench": [f"longbench_{name}" for name in LONGBENCH],
    "longbench_e": [f"longbench_{name}_e" for name in LONGBENCH if name not in ("narrativeqa", "musique", "qmsum")],
}
YAML.update({name: f"ruler/{file}.yaml" for name, file in RULER.items()})
YAML.update({name: f"longbench/{name[len('longbench_'):]}.yaml"
             for group in ("longbench", "longbench_e") for name in GROUPS[group]})
GENERATED = {name for names in GROUPS.values() for name in names}
COMPARED = ["acc", "acc_norm", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"]


def write_lines(path, documents):
    path.write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents), encoding="utf-8")


def make_tasks(directory):
    """A few documents per task, with typical pitfalls: accents, brackets, doubled spaces, equal documents."""
    things = ["water", "a stone", "the moon", "warm air", "fern leaves", "éclair dough", "iron — rusted", "salt"]
    verbs = ["falls", "grows", "melts", "is heavier than paper", "takes up light", "keeps its shape"]

    def arc(count, salt):
        documents = []
        for i in range(count):
            choices = [f"{things[(i * 3 + k + salt) % 8]} {verbs[(i + k * salt) % 6]}" for k in range(3 + i % 2)]
            labels = ["A", "B", "C", "D"] if i % 3 else ["1", "2", "3", "4"]
            documents.append({
                "id": f"doc-{salt}-{i}",
                "question": f"Which of these {verbs[i % 6]} when {things[i % 8]} is near?" + " " * (i % 4 == 1),
                "choices": {"text": choices, "label": labels[: len(choices)]},
                "answerKey": labels[(i + salt) % len(choices)],
            })
        return documents

    def piqa(count, salt):
        return [{"goal": f"To move {things[(i + salt) % 8]},", "label": (i + salt) % 2,
                 "sol1": f"push it until it {verbs[i % 6]}.",
                 "sol2": f"wait; it {verbs[(i * 5 + salt) % 6]} by itself. "}
                for i in range(count)]

    def hellaswag(count, salt):
        return [{"ind": i, "activity_label": "Making a cake" if i % 2 else "Wandern",
                 "ctx_a": f"[header] How to  carry {things[i % 8]} [title] First",
                 "ctx_b": ["a WOMAN", "", "éMILE stands up.", "they"][i % 4], "label": str((i + salt) % 4),
                 "endings": [f"{verbs[(i + k) % 6]} [step] slowly  and\nrests{'.' * k}" for k in range(4)]}
                for i in range(count)]

    for name in ("arc_easy", "arc_challenge"):
        write_lines(directory / f"{name}_train.jsonl", arc(40, 5))
        write_lines(directory / f"{name}.jsonl", arc(24, 1 if name == "arc_easy" else 2))
    pool = piqa(12, 3)
    write_lines(directory / "piqa_train.jsonl", pool)
    write_lines(directory / "piqa.jsonl", piqa(16, 0) + pool[:4])  # these documents are in the pool too
    write_lines(directory / "hellaswag_train.jsonl", hellaswag(30, 1))
    write_lines(directory / "hellaswag.jsonl", hellaswag(16, 0))
    write_lines(directory / "lambada_openai.jsonl",
                [{"text": f"She looked at {things[i % 8]} and said that it {verbs[i % 6]}, "
                          f"so they took {things[(i * 3) % 8]}"} for i in range(16)])
    pages = []
    for i in range(3):
        pages.append(f" = Page {i} = \n \n = = History = = \n \n")
        for k in range(12):
            pages.append(f' It " {verbs[(i + k) % 6]} " ( {things[k % 8]} ) , the 1 @,@ {k} th of '
                         f"{things[(i * k) % 8]} 's . \n")
    (directory / "wikitext.txt").write_text("".join(pages), encoding="utf-8")


def make_long_tasks(directory):
    """A few documents per task of RULER and LongBench, in all layouts of their files."""
    import random

    draw = random.Random(7)
    words = ("the river a stone an old mill café green and under fern rust it grew by of light salt while Anna sang "
             "naïve owls 17 copper wheels over there").split()

    def text(count):
        out = [draw.choice(words) + draw.choice(["", "", "", ".", ",", ".\n"]) for _ in range(count)]
        return " ".join(out)

    for task in GROUPS["ruler"]:
        documents = []
        for i in range(4):
            number, key = str(draw.randrange(10**6, 10**7)), draw.choice(words)
            question = f"What are all the special magic numbers for {key} mentioned in the provided text?"
            document = {"index": i, "input": f"{text(60 + 250 * (i == 3))} One of the special magic numbers for {key} is: "
                                             f"{number}. {text(40)}\n{question}",
                        "outputs": [number, key, "e", "É"][: 1 + i], "length": 600 + i}
            if i % 2:  # NVIDIA's layout
                document["answer_prefix"] = f" The special magic numbers for {key} mentioned in the provided text are"
                document["length"] = 4000 + 300 * i
            else:
                document |= {"max_length": 4096 << (i // 2), "gen_prefix": "Answer: The numbers are"}
            documents.append(document)
        documents.append({"index": 4, "input": text(20) + " ", "outputs": ["a"], "length": 1, "max_length": 4096,
                          "gen_prefix": "Answer:"})
        write_lines(directory / f"{task}.jsonl", documents)
    for task in GROUPS["longbench"] + GROUPS["longbench_e"]:
        documents = []
        for i in range(3):
            answers = [" ".join(draw.choice(words) for _ in range(3)), "The e. an, é"][: 1 + i]
            document = {"context": text(80 + 250 * (i == 2)), "answers": answers, "length": 100, "all_classes": None,
                        "input" if i % 2 else "question": text(8), "language": "en", "_id": str(i), "dataset": task}
            if "trec" in task:
                classes = ["a", "e", "the", "river", "old mill"]
                document |= {"all_classes": classes, "answers": [draw.choice(classes)]}
            if "passage" in task:
                document["answers"] = [f"Paragraph {i + 1}"] if "retrieval" in task else [str(i + 1)]
            documents.append(document)
        write_lines(directory / f"{task}.jsonl", documents)


def wikitext_pages(text):
    pages, page = [], []
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            if "\n".join(page).strip():
                pages.append("\n".join(page))
            page = []
        page.append(line)
    return pages + ["\n".join(page)]


def find(directory, *names):
    return next((directory / n for n in names if (directory / n).exists()), None)


def write_yaml(task, directory, yaml_directory):
    """The harness's own configuration of the task, with local files instead of its data set."""
    import lm_eval

    own = Path(lm_eval.__file__).parent / "tasks" / YAML[task]
    if task in GENERATED:
        return write_generated_yaml(task, own, directory, yaml_directory)
    documents = find(directory, f"{task}.jsonl", f"{task}_test.jsonl")
    train = find(directory, f"{task}_train.jsonl")
    lines = [f"include: {own}", f"task: local_{task}", "dataset_path: json", "dataset_name: null"]
    if task == "wikitext":
        pages = yaml_directory / "wikitext_pages.jsonl"
        text = find(directory, "wikitext.txt", "wiki.test.raw").read_text(encoding="utf-8")
        write_lines(pages, [{"page": p} for p in wikitext_pages(text)])
        files = {"test": pages}
        lines += ["training_split: null", "validation_split: null"]
    else:
        split = "validation" if task in ("piqa", "hellaswag") else "test"
        files = {split: documents}
        if split == "test":
            lines.append("validation_split: null")
        if train and task != "lambada_openai":
            files["train"] = train
        elif task != "lambada_openai":
            lines += ["training_split: null", f"fewshot_split: {split}", f"test_split: {split}"]
    lines.append("dataset_kwargs:\n  data_files:")
    lines += [f"    {split}: {path}" for split, path in files.items()]
    (yaml_directory / f"local_{task}.yaml").write_text("\n".join(lines) + "\n")


def write_generated_yaml(task, own, directory, yaml_directory):
    """RULER and LongBench: the documents in the fields that the harness's own generators and data set have."""
    documents = []
    lines = find(directory, f"{task}.jsonl", f"{task.removeprefix('longbench_')}.jsonl").read_text(encoding="utf-8")
    for document in map(json.loads, lines.splitlines()):
        if task in RULER:
            length = document.get("max_length") or next(
                n for n in (4096, 8192, 16384, 32768, 65536, 131072) if document["length"] <= n)
            documents.append({"input": document["input"], "outputs": document["outputs"], "max_length": length,
                              "gen_prefix": document.get("gen_prefix") or document.get("answer_prefix", "")})
        else:
            documents.append({"context": document["context"], "answers": document["answers"],
                              "question": document.get("question", document.get("input")),
                              "all_classes": document.get("all_classes") or ["none"]})
    write_lines(yaml_directory / f"{task}_documents.jsonl", documents)
    (yaml_directory / f"local_{task}.yaml").write_text(
        f"include: {own}\ntask: local_{task}\ndataset_path: json\ndataset_name: null\ncustom_dataset: null\n"
        f"dataset_kwargs:\n  data_files:\n    test: {yaml_directory}/{task}_documents.jsonl\n")


def run_harness(directory, tasks, yaml_directory, args):
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(directory), "trust_remote_code": True, "dtype": "float32",
                    **({"max_length": args.max_length} if args.max_length else {})},
        tasks=[f"local_{t}" for t in tasks], num_fewshot=args.num_fewshot, batch_size=8, device="cpu", limit=args.limit,
        fewshot_random_seed=args.seed, log_samples=True, task_manager=TaskManager(include_path=str(yaml_directory)))
    return {t: (results["results"][f"local_{t}"],
                sorted(results["samples"][f"local_{t}"], key=lambda s: s["doc_id"])) for t in tasks}


def run_ssa_eval(directory, mode, tasks, task_dir, args, out):
    command = [ROOT / "build/bin/ssa_eval", "--model", directory, "--mode", mode, "--tasks", ",".join(tasks),
               "--task-dir", task_dir, "--num-fewshot", args.num_fewshot, "--seeds", args.seed, "--device", "cpu",
               "--output", out, "--log-samples"]
    if args.limit:
        command += ["--limit", args.limit]
    if args.max_length:
        command += ["--max-length", args.max_length]
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
    document = json.loads(Path(out).read_text())
    return {t: (document["results"][t], document["samples"][t]) for t in tasks}


def likelihoods(responses):
    return [float(r[0] if isinstance(r, (list, tuple)) else r) for r in responses]


def compare_generated(ours, theirs):
    """(largest score difference, {metric: (ours, theirs)}, number of different prompts and of different answers)"""
    (our_results, our_samples), (their_results, their_samples) = ours, theirs
    prompts = answers = 0
    item = 0.0
    for a, b in zip(our_samples, their_samples, strict=True):
        (our_prompt, our_kwargs), = a["arguments"]
        (their_prompt, their_kwargs), = b["arguments"]
        prompts += our_prompt != their_prompt or any(our_kwargs[k] != their_kwargs[k] for k in ("until", "max_gen_toks"))
        answers += a["filtered_resps"] != b["filtered_resps"]
        for name in a.keys() & b.keys() - {"doc_id", "target", "arguments", "filtered_resps", "filter"}:
            item = max(item, abs(a[name] - b[name]))
    metrics = {}
    for key, value in their_results.items():  # the harness reports -1 for a length without documents
        if isinstance(value, float) and key.endswith(",none") and value != -1:
            metrics[key] = (our_results[key], value)
    return item, metrics, prompts, answers


def compare(task, ours, theirs):
    """(largest log-likelihood difference, {metric: (ours, theirs)}, number of different prompts)"""
    (our_results, our_samples), (their_results, their_samples) = ours, theirs
    if len(our_samples) != len(their_samples):
        sys.exit(f"compare_lm_eval.py: {task}: {len(our_samples)} documents, the harness has {len(their_samples)}")
    item, prompts = 0.0, 0
    for a, b in zip(our_samples, their_samples):
        prompts += [list(x) for x in a["arguments"]] != [list(x) for x in b["arguments"]]
        for x, y in zip(likelihoods(a["filtered_resps"]), likelihoods(b["filtered_resps"]), strict=True):
            item = max(item, abs(x - y) / (1.0 if task != "wikitext" else max(1.0, abs(y))))
    metrics = {}
    for name in COMPARED:
        for key in (f"{name},none", f"{name}_stderr,none"):
            if isinstance(their_results.get(key), float):
                metrics[key] = (our_results[key], their_results[key])
    return item, metrics, prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a checkpoint, or a directory written by ssa_export --dtype f32")
    parser.add_argument("--tasks", default=",".join(TASKS), help="names, or the groups ruler, longbench, longbench_e")
    parser.add_argument("--task-dir", type=Path,
                        help="directory of NAME.jsonl, NAME_train.jsonl and wikitext.txt, see docs/tasks.md")
    parser.add_argument("--modes", default="sparse,full", help="attention to evaluate with (default: %(default)s)")
    parser.add_argument("--num-fewshot", type=int, default=0, help="examples before each question (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1234, help="of the few-shot draws (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="documents per task (default: all)")
    parser.add_argument("--max-length", type=int, help="tokens of prompt and answer (default: the model's longest)")
    parser.add_argument("--tolerance", type=float, default=1e-3,
                        help="largest difference that is not an error (default: %(default)s)")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)
    tasks, worst = [task for name in args.tasks.split(",") for task in GROUPS.get(name, [name])], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        os.environ["HF_HOME"] = str(temporary / "hf")
        directory = Path(args.model)
        if not (directory / "model.safetensors").exists() or (directory / "manifest.json").exists():
            directory = temporary / "model"
            subprocess.run([ROOT / "build/bin/ssa_export", args.model, directory, "--dtype", "f32"], check=True)
        task_dir = args.task_dir or temporary
        if not args.task_dir:
            make_tasks(temporary)
            make_long_tasks(temporary)
        for task in tasks:
            write_yaml(task, task_dir, temporary)
        for mode in args.modes.split(","):
            config = json.loads((directory / "config.json").read_text())
            config["inference_mode"] = mode
            (directory / "config.json").write_text(json.dumps(config, indent=2))
            ours = run_ssa_eval(directory, mode, tasks, task_dir, args, temporary / "out.json")
            theirs = run_harness(directory, tasks, temporary, args)
            for task in tasks:
                if task in GENERATED:
                    item, metrics, prompts, answers = compare_generated(ours[task], theirs[task])
                    what = f"different prompts {prompts}, answers {answers}  largest score difference {item:.2e}"
                    prompts += answers
                else:
                    item, metrics, prompts = compare(task, ours[task], theirs[task])
                    what = f"different prompts {prompts}  largest log-likelihood difference {item:.2e}"
                worst = max(worst, item, 1e9 * prompts)
                print(f"{mode:7} {task:15} documents {len(ours[task][1]):5}  {what}")
                for key, (x, y) in metrics.items():
                    off = abs(x - y) / (max(1.0, abs(y)) if "perplexity" in key else 1.0)
                    worst = max(worst, off)
                    print(f"        {key:24} ssa_eval {x:.6f}  harness {y:.6f}  difference {off:.2e}")
    print(f"largest difference {worst:.2e}, tolerance {args.tolerance:g}")
    return 0 if worst <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
