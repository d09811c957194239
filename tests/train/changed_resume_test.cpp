// A run that resumes under changed circumstances continues exactly where it was, or says why it does not.
#include <map>
#include <set>

#include "ssa/train/resume_check.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// The rows that each step used, in order, as metrics.jsonl states them.
std::vector<std::pair<std::int64_t, std::int64_t>> rows_of(const std::vector<nlohmann::json>& metrics) {
  std::vector<std::pair<std::int64_t, std::int64_t>> rows;
  for (const auto& line : metrics) rows.emplace_back(line.at("rows").at(0), line.at("rows").at(1));
  return rows;
}

/// Each of the files of a run, and its content.
std::map<fs::path, std::string> files_of(const fs::path& directory) {
  std::map<fs::path, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file()) files[entry.path()] = ssa::read_file(entry.path());
  return files;
}

void flip_bit(const fs::path& file) {
  std::string bytes = ssa::read_file(file);
  bytes[bytes.size() / 2] ^= 4;
  write_file(file, bytes);
}

/// 60 documents, of one row each.
void write_documents(const fs::path& directory, std::uint64_t seed, bool with_json = true) {
  Documents documents = random_documents(60, 2, seed, 257);
  for (std::size_t i = 0; i < documents.size(); ++i) {
    documents[i].assign(33, static_cast<std::int32_t>((seed + i) % 200));
    documents[i].back() = 257;
  }
  fs::remove_all(directory);
  make_dataset(directory, {documents}, {.vocab_size = 258, .eos_token_id = 257, .json = with_json});
}

}  // namespace

TEST_CASE("resume: with another batch size, accumulation or number of ranks, the data continues at the next row") {
  struct Change {
    Names overrides;
    int ranks;
    std::int64_t rows;  ///< per step
  };
  const RunDirectory run("full");
  write_documents(run / "data", 1);
  run.train_to_end("start", {"checkpoint.save_steps=4", "train.max_steps=4", "train.gradient_accumulation_steps=2"});
  for (const Change& change :
       {Change{{"train.gradient_accumulation_steps=1"}, 1, 2}, Change{{"train.gradient_accumulation_steps=3"}, 1, 6},
        Change{{"train.per_device_train_batch_size=1"}, 1, 2}, Change{{"train.gradient_accumulation_steps=2"}, 2, 8}}) {
    fs::remove_all(run / "out");
    fs::copy(run / "start", run / "out", fs::copy_options::recursive);
    Names overrides = change.overrides;
    if (overrides[0].starts_with("train.per")) overrides.push_back("train.gradient_accumulation_steps=2");
    const ProgramResult result = run.train("out", overrides, {}, change.ranks);
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == 0);
    CHECK_THAT(result.out, has("rows per step: 4 in the checkpoint, " + std::to_string(change.rows) + " now"));
    if (change.ranks == 2) CHECK_THAT(result.out, has("ranks: 1 in the checkpoint, 2 now"));
    const auto metrics = run.metrics("out");
    REQUIRE(metrics.size() == 8);
    std::int64_t next = 16;
    for (std::size_t i = 4; i < 8; ++i) {
      CHECK(rows_of(metrics)[i] == std::pair(next, next + change.rows - 1));
      next += change.rows;
      CHECK(metrics[i].at("tokens") == next * 33);
    }
    CHECK(metrics[7].at("epoch") == static_cast<double>(next) / static_cast<double>(60 / change.rows * change.rows));
  }
}

TEST_CASE("resume: a run of epochs ends when its rows are used, also with another batch size") {
  const RunDirectory run("full");
  write_documents(run / "data", 1);
  const Names epochs = {"train.max_steps=-1", "train.num_train_epochs=2", "checkpoint.save_steps=20"};
  run.train_to_end("whole", epochs);
  REQUIRE(run.metrics("whole").size() == 60);
  Names larger = epochs;
  larger.push_back("train.gradient_accumulation_steps=2");
  run.train_to_end("larger", larger, {"--resume", run.checkpoint("whole", 20).string()});
  // 20 rows are left of epoch 0, and 60 of epoch 1, 4 per step.
  CHECK(fs::exists(run.checkpoint("larger", 40)));
  std::vector<nlohmann::json> lines;
  std::ifstream stream(run / "larger/metrics.jsonl");
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  REQUIRE(lines.size() == 20);
  std::int64_t next = 40;
  for (const auto& [first, last] : rows_of(lines)) {
    CHECK(first == next);
    next = last + 1;
  }
  CHECK(next == 120);
  CHECK(lines.back().at("epoch") == 2.0);
}

TEST_CASE("resume: every changed key is printed, and one that changes what weights or data mean is refused") {
  const RunDirectory run("full");
  write_documents(run / "data", 1);
  run.train_to_end("out", {"checkpoint.save_steps=4", "train.max_steps=4"});
  const auto before = files_of(run / "out");
  fs::copy(run / "model", run / "other-model", fs::copy_options::recursive);
  for (const auto& [set, key] : std::vector<std::pair<std::string, std::string>>{
           {"train.max_length=30", "train.max_length: 33 in the checkpoint, 30 now"},
           {"data.packing=greedy", "data.packing: concat in the checkpoint, greedy now"},
           {"data.shuffle=true", "data.shuffle: false in the checkpoint, true now"},
           {"data.max_train_samples=40", "data.max_train_samples: 0 in the checkpoint, 40 now"},
           {"data.skip_train_samples=3", "data.skip_train_samples: -1 in the checkpoint, 3 now"},
           {"train.seed=43", "train.seed: 42 in the checkpoint, 43 now"},
           {"attention.method=moba", "attention.method: full in the checkpoint, moba now"},
           {"attention.selection=reference", "attention.selection: exact in the checkpoint, reference now"},
           {"model.rope_theta=10000", "model.rope_theta: 500000.0 in the checkpoint, 10000.0 now"},
           {"model.rms_norm_eps=1e-6", "model.rms_norm_eps: 1e-05 in the checkpoint, 1e-06 now"},
           {"init_from=other-model", "init_from: model in the checkpoint, other-model now"}}) {
    check_fails(
        run.train("out", {set}), kExitUsage,
        {"cannot resume from out/checkpoints/step-00000004", key, "--allow-change " + set.substr(0, set.find('='))});
    CHECK((files_of(run / "out") == before));  // config.json and metrics.jsonl too
  }
  for (const auto& [set, key] : std::vector<std::pair<std::string, std::string>>{
           {"train.learning_rate=0.02", "train.learning_rate: 0.01 in the checkpoint, 0.02 now"},
           {"attention.alignment_weight=3", "attention.alignment_weight: 10.0 in the checkpoint, 3.0 now"},
           {"train.logging_steps=2", "train.logging_steps: 1 in the checkpoint, 2 now"}}) {
    fs::remove_all(run / "changed");
    fs::copy(run / "out", run / "changed", fs::copy_options::recursive);
    const ProgramResult result = run.train("changed", {set});
    INFO(result.out << result.err);
    CHECK(result.exit_code == 0);
    CHECK_THAT(result.out, has("resume: " + key));
  }
}

TEST_CASE("resume: rows of data.skip_ranges that were read before the checkpoint are named") {
  const RunDirectory run("full");
  run.train_to_end("out", {"checkpoint.save_steps=4", "train.max_steps=4"});
  const ProgramResult result = run.train("out", {"data.skip_ranges=[[1,2],[6,9],[20,21]]", "train.max_steps=5"});
  INFO(result.out << result.err);
  CHECK(result.exit_code == 0);
  CHECK_THAT(result.out,
             has("data.skip_ranges: rows 1 to 2 were read before the checkpoint, which continues at row 8"));
  CHECK_THAT(result.out,
             has("data.skip_ranges: rows 6 to 7 were read before the checkpoint, which continues at row 8"));
  CHECK_THAT(result.out, !has("rows 20 to"));
  const ProgramResult again = run.train("out", {"data.skip_ranges=[[1,2],[6,9],[20,21]]", "train.max_steps=6"});
  CHECK(again.exit_code == 0);
  CHECK_THAT(again.out, !has("were read before"));  // the checkpoint's config has them
}

TEST_CASE("resume: --allow-change names keys that may change, and the new rows begin with the first") {
  const RunDirectory run("full");
  write_documents(run / "data", 1);
  run.train_to_end("out", {"checkpoint.save_steps=4", "train.max_steps=4"});
  check_fails(run.train("out", {"train.seed=43", "data.shuffle=true"}, {"--allow-change", "train.seed"}), kExitUsage,
              {"data.shuffle: false in the checkpoint, true now"});
  check_fails(run.train("out", {}, {"--allow-change", "data.pth"}), kExitUsage, {"--allow-change", "data.pth"});
  const ProgramResult result =
      run.train("out", {"train.seed=43", "data.shuffle=true"}, {"--allow-change", "train.seed,data"});
  INFO(result.out << result.err);
  REQUIRE(result.exit_code == 0);
  CHECK_THAT(result.out, has("train.seed: 42 in the checkpoint, 43 now (allowed by --allow-change)"));
  CHECK_THAT(result.out, has("data is read from its first row"));
  CHECK(rows_of(run.metrics("out"))[4] == std::pair<std::int64_t, std::int64_t>(0, 1));
  // The same command again: nothing differs from the newest checkpoint, and the flag does no harm.
  run.train_to_end("out", {"train.seed=43", "data.shuffle=true", "train.max_steps=9"},
                   {"--allow-change", "train.seed,data"});
  CHECK(rows_of(run.metrics("out"))[8] == std::pair<std::int64_t, std::int64_t>(8, 9));
}

TEST_CASE("resume: other documents are refused under the same name, and the same ones accepted under another") {
  for (const bool with_json : {true, false}) {
    INFO("dataset.json " << with_json);
    const RunDirectory run("full");
    write_documents(run / "data", 1, with_json);
    run.train_to_end("out", {"checkpoint.save_steps=4", "train.max_steps=4"});
    fs::copy(run / "data", run / "moved", fs::copy_options::recursive);
    write_documents(run / "data", 2, with_json);
    check_fails(run.train("out"), kExitUsage, {"data.path: a dataset with fingerprint", "--allow-change data.path"});
    const ProgramResult moved = run.train("out", {"data.path=moved"});
    INFO(moved.out << moved.err);
    CHECK(moved.exit_code == 0);
    CHECK_THAT(moved.out, has("data.path: data in the checkpoint, moved now"));
    CHECK(rows_of(run.metrics("out"))[4] == std::pair<std::int64_t, std::int64_t>(8, 9));
    const ProgramResult allowed = run.train("out", {"train.max_steps=9"}, {"--allow-change", "data.path"});
    INFO(allowed.out << allowed.err);
    CHECK(allowed.exit_code == 0);
    CHECK(rows_of(run.metrics("out"))[8] == std::pair<std::int64_t, std::int64_t>(0, 1));
  }
}

TEST_CASE("resume: a checkpoint that records no fingerprint is compared by its rows per epoch") {
  const RunDirectory run("full");
  const Config config = load_config(run / "config.json", {"model=" + (run / "model/config.json").string()});
  TrainerState saved;
  saved.rows_per_epoch = 73;
  saved.global_rows = saved.ranks = 1;
  const auto check = [&](std::int64_t rows, const Names& allowed) {
    return check_resume(config, saved, {config, "0123456789abcdef", 1, rows, 1}, allowed, "step-00000004");
  };
  CHECK(check(73, {}).lines.empty());
  CHECK_THAT(error_of([&] { check(74, {}); }),
             has("data.path: 73 rows per epoch in the checkpoint, 74 rows per epoch now"));
  CHECK(check(74, {"data.path"}).data_changed);
}

TEST_CASE("resume: auto stops if there are checkpoints and none can be used, and none starts over") {
  const RunDirectory run("full");
  run.train_to_end("out", {"checkpoint.save_steps=8"});
  const std::string metrics = ssa::read_file(run / "out/metrics.jsonl");
  flip_bit(run.checkpoint("out", 8) / "model.safetensors");
  const auto before = files_of(run / "out");
  check_fails(run.train("out"), kExitFailed,
              {"out/checkpoints", "step-00000008: model.safetensors: checksum", "--resume none starts over"});
  CHECK((files_of(run / "out") == before));
  fs::remove(run.checkpoint("out", 8) / "manifest.json");
  check_fails(run.train("out"), kExitFailed, {"step-00000008: manifest.json is missing", "--resume none"});

  run.train_to_end("out", {"checkpoint.save_steps=8"}, {"--resume", "none"});
  CHECK(run.metrics("out").size() == 8);
  int kept = 0;
  for (const auto& entry : fs::directory_iterator(run / "out"))
    if (entry.path().filename().string().starts_with("metrics-until-")) kept += ssa::read_file(entry.path()) == metrics;
  CHECK(kept == 1);
}

TEST_CASE("resume: a checkpoint that cannot be read stops the run, although an older one is complete") {
  const RunDirectory run("full");
  run.train_to_end("out", {"checkpoint.save_steps=4"});
  const fs::path file = run.checkpoint("out", 8) / "manifest.json";
  fs::rename(file, run / "intact");
  fs::create_symlink("/proc/self/mem", file);  // reading it at offset 0 fails with EIO
  check_fails(run.train("out"), kExitFailed, {"step-00000008", "manifest.json", "Input/output error"});
  fs::remove(file);
  fs::rename(run / "intact", file);
  const ProgramResult result = run.train("out");
  CHECK(result.exit_code == 0);
  CHECK_THAT(result.out, has("already complete at step 8"));
}

TEST_CASE("resume: a run without checkpoints starts over, and the metrics that were there remain in another file") {
  const RunDirectory run("full");
  run.train_to_end("out", {"checkpoint.save_steps=4"});
  const std::string metrics = ssa::read_file(run / "out/metrics.jsonl");
  const auto kept = [&] {
    int files = 0;
    for (const auto& entry : fs::directory_iterator(run / "out"))
      if (entry.path().filename().string().starts_with("metrics-until-"))
        files += ssa::read_file(entry.path()) == metrics;
    return files;
  };
  fs::remove_all(run / "out/checkpoints");  // or the disk that it is on is not mounted
  run.train_to_end("out", {"checkpoint.save_steps=4"});
  CHECK(run.metrics("out").size() == 8);
  CHECK(kept() == 1);
  // A run that resumes keeps its file.
  fs::remove_all(run.checkpoint("out", 8));
  run.train_to_end("out", {"checkpoint.save_steps=4"}, {"--resume", (run.checkpoint("out", 4) / "").string()});
  CHECK(run.metrics("out").size() == 8);
  CHECK(RunDirectory::names_in(run / "out").size() == 6);  // .lock, checkpoints, config.json, train.log, two of metrics
}

TEST_CASE("resume: lines that metrics.jsonl has lost are reported") {
  const RunDirectory run("full");
  run.train_to_end("out", {"checkpoint.save_steps=4", "train.max_steps=4"});
  const std::string metrics = ssa::read_file(run / "out/metrics.jsonl");
  write_file(run / "out/metrics.jsonl", metrics.substr(0, metrics.find('\n') + 1));
  const ProgramResult result = run.train("out", {"checkpoint.save_steps=4"});
  INFO(result.out << result.err);
  CHECK(result.exit_code == 0);
  CHECK_THAT(result.out, has("out/metrics.jsonl: 1 lines up to step 4, expected 4"));

  fs::remove_all(run.checkpoint("out", 8));
  write_file(run / "out/metrics.jsonl", metrics.substr(0, metrics.find('\n') + 1));
  // The same run, with another spelling of its directory.
  CHECK_THAT(run.train("out/").out, has("out/metrics.jsonl: 1 lines up to step 4, expected 4"));
  write_file(run / "out/metrics.jsonl", metrics + "a note\n");
  CHECK_THAT(run.train("out").out,
             has("out/metrics.jsonl: line 5: found \"a note\", expected a JSON object with a step"));
}

TEST_CASE("checkpoints: keep_every keeps every n-th permanently, export_every writes it for Hugging Face") {
  const RunDirectory run("full");
  for (const char* async : {"checkpoint.async=false", "checkpoint.async=true"}) {
    INFO(async);
    const std::string output = async;
    fs::create_directories(run / output / "exports/step-00000004.tmp");  // as a killed export leaves it
    run.train_to_end(output, {"checkpoint.save_steps=1", "checkpoint.save_total_limit=2", "checkpoint.keep_every=3",
                              "checkpoint.export_every=4", async});
    CHECK(run.checkpoints(output) == Names{"step-00000003", "step-00000006", "step-00000007", "step-00000008"});
    CHECK(RunDirectory::names_in(run / output / "exports") == Names{"step-00000004", "step-00000008"});
    const ProgramResult exported =
        run_program({"ssa_export", run.checkpoint(output, 8).string(), output + "-by-hand"}, {.directory = run.path()});
    REQUIRE(exported.exit_code == 0);
    for (const std::string& name : RunDirectory::names_in(run / (output + "-by-hand")))
      CHECK((ssa::read_file(run / output / "exports/step-00000008" / name) ==
             ssa::read_file(run / (output + "-by-hand") / name)));
  }
}

TEST_CASE("checkpoints: values that are not finite do not replace a good checkpoint") {
  const RunDirectory run("full");
  const ProgramResult result =
      run.train("out", {"checkpoint.save_steps=1", "checkpoint.save_total_limit=1", "train.learning_rate=3e38",
                        "train.min_lr=3e38", "train.weight_decay=1000", "train.warmup_steps=2"});
  check_fails(result, kExitFailed, {"checkpoint not written", "expected finite values"});
  CHECK(run.checkpoints("out") == Names{"step-00000001"});
}
