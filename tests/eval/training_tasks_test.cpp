// train.eval_tasks: the scores in metrics.jsonl equal those of ssa_eval, on any number of ranks and after a kill.
#include "ssa/eval/training_tasks.h"

#include <csignal>
#include <cstdlib>
#include <map>

#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;
using nlohmann::json;

namespace {

/// A run on bytes, with a file of each kind of task.
struct TaskRun : RunDirectory {
  explicit TaskRun(const std::string& golden) : RunDirectory(golden) {
    std::string text, choices, words;
    for (int i = 0; i < 40; ++i) text += "{\"text\": \"Line " + std::to_string(i * i) + " of a text for bytes.\"}\n";
    write_file(*this / "text.jsonl", text);
    for (int i = 0; i < 7; ++i) {
      const std::string number = std::to_string(i);
      choices +=
          json{{"query", "Count to " + number}, {"choices", {"one", "two " + number, "3"}}, {"gold", i % 3}}.dump();
      choices += "\n";
      words += json{{"text", "After " + number + " comes the next word"}}.dump() + "\n";
    }
    fs::create_directory(*this / "tasks");
    write_file(*this / "tasks/piqa.jsonl", choices);
    write_file(*this / "tasks/lambada.jsonl", words);
    write_file(*this / "tasks/wiki.txt", " = One = \n\n A page of text . \n");
    fs::remove_all(*this / "data");
    const ProgramResult result = run_program(
        {"ssa_tokenize", "--tokenizer", "bytes", "--input", "text.jsonl", "--output", "data"}, {.directory = path()});
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
  }

  Names overrides(const Names& more = {}) const {
    Names all = {"model.eos_token_id=256", "train.max_length=48", "train.eval_steps=3",
                 R"(train.eval_tasks={"piqa": "tasks", "lambada_openai": "tasks/lambada.jsonl", )"
                 R"("wikitext": "tasks/wiki.txt"})"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  /// What ssa_eval finds for a checkpoint, under the keys of metrics.jsonl.
  std::map<std::string, double> evaluated(const fs::path& checkpoint, const std::string& mode,
                                          const std::string& key) const {
    const ProgramResult result =
        run_program({"ssa_eval", "--model", checkpoint.string(), "--device", "cpu", "--tokenizer", "bytes", "--rows",
                     "2", "--max-length", "48", "--mode", mode, "--output", "results.json", "--tasks",
                     "piqa=tasks/piqa.jsonl,lambada_openai=tasks/lambada.jsonl,wikitext=tasks/wiki.txt"},
                    {.directory = path()});
    INFO(result.err);
    REQUIRE(result.exit_code == kExitDone);
    std::map<std::string, double> values;
    const json document = json::parse(ssa::read_file(*this / "results.json"));
    for (const auto& [task, metrics] : document["results"].items())
      for (const auto& [name, value] : metrics.items())
        if (const std::size_t comma = name.find(",none");
            comma != std::string::npos && name.find("_stderr") == std::string::npos)
          values["task_" + name.substr(0, comma) + key + "/" + task] = value;
    return values;
  }
};

/// The scores in a line of metrics.jsonl.
std::map<std::string, double> scores_of(const json& line) {
  std::map<std::string, double> scores;
  for (const auto& [key, value] : line.items())
    if (key.starts_with("task_")) scores[key] = value;
  return scores;
}

}  // namespace

TEST_CASE("eval_tasks: the scores equal those of ssa_eval on the same checkpoint") {
  for (const std::string golden : {"ssa-sparse-stream", "moba"}) {
    const bool ssa = golden.starts_with("ssa");
    const TaskRun run(golden);
    run.train_to_end("out", run.overrides({"checkpoint.save_steps=3"}));
    const auto metrics = run.metrics("out");
    for (const int step : {3, 6, 8}) {
      INFO(golden << ", step " << step);
      const auto found = scores_of(metrics.at(static_cast<std::size_t>(step - 1)));
      auto expected = run.evaluated(run.checkpoint("out", step), "sparse", ssa ? "_sparse" : "");
      if (ssa) expected.merge(run.evaluated(run.checkpoint("out", step), "full", "_full"));
      CHECK(expected.size() == (ssa ? 14 : 7));
      CHECK(found == expected);
    }
    for (const std::size_t step : {1u, 4u, 7u}) CHECK(scores_of(metrics.at(step - 1)).empty());
    const ProgramResult inspected = run_program({"ssa_inspect", "out"}, {.directory = run.path()});
    CHECK_THAT(inspected.out, has("last evaluation: {\"step\":8,\"task_"));
  }
}

TEST_CASE("eval_tasks: the scores do not depend on the number of ranks, nor on what they share") {
  const TaskRun run("ssa-sparse-stream");
  std::map<std::string, double> one;
  for (const auto& [ranks, stage] : {std::pair(1, "0"), {2, "0"}, {3, "0"}, {2, "3"}}) {
    INFO(ranks << " ranks, zero_stage " << stage);
    const std::string output = std::to_string(ranks) + "-" + stage;
    // The learning rate of the first step of a warm-up is 0: the weights are those of the start, on any number of
    // ranks.
    run.train_to_end(output,
                     run.overrides({"train.max_steps=1", "train.gradient_accumulation_steps=1",
                                    std::string("distributed.zero_stage=") + stage}),
                     {}, ranks);
    const auto scores = scores_of(run.metrics(output).at(0));
    CHECK(scores.size() == 14);
    if (ranks == 1) one = scores;
    CHECK(scores == one);
  }
}

TEST_CASE("eval_tasks: a run that is killed or stopped in an evaluation resumes to the same metrics") {
  const TaskRun run("ssa-sparse-stream");
  const Names overrides = run.overrides({"train.eval_tasks_steps=2", "train.eval_tasks_limit=3", "train.max_steps=4",
                                         "train.eval_steps=0", "checkpoint.save_steps=1"});
  run.train_to_end("whole", overrides);
  const auto whole = run.metrics("whole");
  REQUIRE(whole.size() == 4);
  CHECK(scores_of(whole.at(1)).size() == 14);
  CHECK(scores_of(whole.at(3)).size() == 14);

  ::setenv("SSA_FAULT", "kill@eval:2", 1);
  const ProgramResult killed = run.train("killed", overrides);
  ::unsetenv("SSA_FAULT");
  CHECK(killed.signal == SIGKILL);
  CHECK(run.metrics("killed").size() == 3);
  run.train_to_end("killed", overrides);
  CHECK(run.metrics("killed") == whole);
  check_same_state(run.checkpoint("killed", 4), run.checkpoint("whole", 4));

  // The signal arrives while the second evaluation waits, or a little before it, if the machine is slow.
  ::setenv("SSA_FAULT", "slow@eval:2,seconds:2", 1);
  RunningProgram program(run.command("stopped", overrides), {.directory = run.path()});
  ::unsetenv("SSA_FAULT");
  while (program.out().find("step 3/") == std::string::npos && !program.ends_within(0.01)) {
  }
  program.ends_within(0.5);
  program.kill(SIGUSR1);
  const ProgramResult stopped = program.wait();
  INFO(stopped.out << stopped.err);
  CHECK(stopped.exit_code == kExitStopped);
  run.train_to_end("stopped", overrides);
  CHECK(run.metrics("stopped") == whole);
}

TEST_CASE("eval_tasks: what is missing is named at the start and by --dry-run") {
  const TaskRun run("full");
  replace_file(run / "niah.jsonl", R"({"input": "a", "outputs": ["b"], "length": 128})");
  for (const Names& mode : {Names{}, Names{"--dry-run"}}) {
    const auto fails = [&](const Names& more, int code, const std::vector<std::string>& parts) {
      check_fails(run.train("out", run.overrides(more), mode), code, parts);
      CHECK_FALSE(fs::exists(run / "out"));
    };
    fails({R"(train.eval_tasks={"piqa": "absent"})"}, kExitUsage,
          {"train.eval_tasks: absent: no such file or directory", "piqa.jsonl or piqa_test.jsonl"});
    fails({R"(train.eval_tasks={"arc_easy": "tasks"})"}, kExitUsage,
          {"train.eval_tasks: tasks: no file of the task arc_easy, expected arc_easy.jsonl"});
    fails({R"(train.eval_tasks={"arc": "tasks"})"}, kExitUsage, {"train.eval_tasks: task arc: no such task", "piqa"});
    fails({R"(train.eval_tasks={"niah_single_1": "niah.jsonl"})"}, kExitUsage,
          {"train.eval_tasks: task niah_single_1: its answers are generated, which only ssa_eval --tasks does"});
    fails({R"(train.eval_tasks={"piqa": "tasks/wiki.txt"})"}, kExitFailed,
          {"train.eval_tasks: tasks/wiki.txt: line 1"});
    fails({"train.max_length=4", "train.eval_tasks_limit=2"}, kExitFailed,
          {"train.eval_tasks: tasks/lambada.jsonl: document 1: a continuation of 5 tokens, expected at most "
           "train.max_length 4"});
    fails({"train.eval_tokenizer=absent"}, kExitUsage, {"train.eval_tokenizer: tokenizer absent: no such file"});
  }
  const ProgramResult dry = run.train("out", run.overrides(), {"--dry-run"});
  CHECK_THAT(dry.out, has("eval_tasks: piqa: 7 documents of tasks/piqa.jsonl"));
  CHECK_THAT(dry.out, has("eval_tasks, while they run"));
  // Without dataset.json nothing says that the data is bytes.
  fs::remove(run / "data/dataset.json");
  check_fails(run.train("out", run.overrides()), kExitUsage, {"train.eval_tokenizer: missing", "272"});
}
