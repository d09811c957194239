// Runs ssa_export and ssa_inspect as programs, on a run whose checkpoints have the weights of a golden case.
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "ssa/config/config.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/tokenizer/hugging_face_tokenizer.h"
#include "ssa/train/metrics_log.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "support/paths.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

namespace fs = std::filesystem;
using namespace ssa;
using ssa::test::check_error;
using ssa::test::TempDir;

namespace {

const fs::path kModel = ssa::test::source_dir() / "tests" / "golden" / "cases" / "full-untied-llama3rope" / "model";

struct Outcome {
  int exit_code;
  std::string output;  ///< stdout and stderr, without the last end of line
};

/// Runs a program of the build. The arguments of `line` are separated by spaces and contain none.
Outcome run_line(const std::string& line) {
  std::istringstream words(line);
  const auto result = ssa::test::run_program({std::istream_iterator<std::string>(words), {}});
  std::string output = result.out + result.err;
  if (output.ends_with('\n')) output.pop_back();
  return {result.exit_code, output};
}

std::string last_line(const std::string& text) {
  const auto end = text.rfind('\n');
  return end == std::string::npos ? text : text.substr(end + 1);
}

/// Saves the golden model's weights as a checkpoint; `poison` makes one moment NaN.
void save(const fs::path& run, std::int64_t step, bool poison = false) {
  const ModelConfig model = load_model_config(kModel / "config.json");
  const auto parameters = published_parameters(model);
  const HuggingFaceWeights weights(kModel, model);
  CheckpointWriter writer(run, step, parameters);
  for (const TensorSpec& p : parameters) {
    std::vector<float> values(static_cast<std::size_t>(count_of(p.shape)));
    weights.read(p, values);
    writer.add_weight(p.name, values);
    if (poison && p.name == "model.norm.weight") values[3] = std::numeric_limits<float>::quiet_NaN();
    writer.add_m(p.name, values);
    writer.add_v(p.name, values);
  }
  const nlohmann::json config{
      {"model", (kModel / "config.json").string()},
      {"output_dir", run.string()},
      {"attention", {{"method", "full"}}},
      {"data", {{"path", "data"}}},
      {"train", {{"max_length", 32}, {"per_device_train_batch_size", 1}, {"learning_rate", 1e-3}}}};
  writer.commit({{"step", step}}, config_json(parse_config(config.dump(), "config.json")), {});
}

}  // namespace

TEST_CASE("ssa_export writes the checkpoint's config and weights, also in shards") {
  const TempDir dir;
  save(dir.path() / "run", 1);
  save(dir.path() / "run", 2);
  // The newest checkpoint is damaged: the previous one is exported, with a message about the damage.
  fs::remove(dir.path() / "run" / "checkpoints" / "step-00000002" / "manifest.json");
  const std::string run = (dir.path() / "run").string(), out = (dir.path() / "out").string();
  const Outcome done = run_line("ssa_export " + run + " " + out + " --dtype f32");
  INFO(done.output);
  REQUIRE(done.exit_code == kExitDone);
  CHECK(done.output.find("step-00000002: manifest.json is missing") != std::string::npos);

  const ModelConfig model = load_model_config(fs::path(out) / "config.json");
  CHECK(model == load_model_config(kModel / "config.json"));
  const auto json_of = [&](const char* file) { return nlohmann::json::parse(read_file(fs::path(out) / file)); };
  CHECK(json_of("config.json").at("attention_method") == "full");
  CHECK(json_of("config.json").at("torch_dtype") == "float32");
  CHECK(json_of("generation_config.json").at("eos_token_id") == model.eos_token_id);
  for (const TextFile& code : hugging_face_model_code()) CHECK(read_file(fs::path(out) / code.name) == code.text);
  const auto parameters = published_parameters(model);
  const auto holds_the_weights = [&](const fs::path& directory, std::size_t shards) {
    const HuggingFaceWeights exported(directory, model), original(kModel, model);
    CHECK(exported.shards().size() == shards);
    bool same = true;
    for (const TensorSpec& p : parameters) {
      std::vector<float> got(static_cast<std::size_t>(count_of(p.shape))), want(got.size());
      exported.read(p, got);
      original.read(p, want);
      same = same && got == want;
    }
    CHECK(same);
  };
  holds_the_weights(out, 1);
  CHECK(run_line("ssa_export " + run + " " + out + "-cut --dtype f32 --max-shard-size 0.0002").exit_code == kExitDone);
  CHECK(fs::exists(out + "-cut/model.safetensors.index.json"));
  CHECK_FALSE(fs::exists(out + "-cut/model.safetensors"));
  holds_the_weights(out + "-cut", 3);
  const Outcome again = run_line("ssa_export " + run + " " + out);
  CHECK(again.exit_code == kExitUsage);
  check_error(last_line(again.output), out, "expected a new or an empty directory");
  CHECK(run_line("ssa_export " + run + " " + out + "16").exit_code == kExitDone);
  CHECK(run_line("ssa_inspect --verify " + out + "16").output.find("BF16") != std::string::npos);
}

TEST_CASE("ssa_export writes the tokenizer next to the model, or the reason why not") {
  const TempDir dir;
  const std::string run = (dir.path() / "run").string();
  save(run, 1);  // a model with 272 ids, end of text 257, and data without a dataset.json
  const auto exported = [&](const std::string& name, const std::string& options = "") {
    return run_line("ssa_export " + run + " " + (dir.path() / name).string() + options);
  };
  const Outcome without = exported("without");
  CHECK(without.exit_code == kExitDone);
  CHECK(without.output.find("no tokenizer files: there is no ") != std::string::npos);
  CHECK_FALSE(fs::exists(dir.path() / "without" / "tokenizer.json"));
  for (const std::string option : {"--eos-token", "--pre-tokenizer"}) {
    const Outcome unused = exported("unused", " " + option + " gpt2");
    CHECK(unused.exit_code == kExitUsage);
    check_error(last_line(unused.output), option + " gpt2: no tokenizer files (there is no ", "expected --tokenizer");
    CHECK_FALSE(fs::exists(dir.path() / "unused"));
  }

  const Outcome other = exported("other", " --tokenizer bytes");
  CHECK(other.exit_code == kExitUsage);
  check_error(last_line(other.output), "--tokenizer bytes: 257 ids, end of text 256",
              "vocab_size 272, eos_token_id 257");
  CHECK_FALSE(fs::exists(dir.path() / "other"));
  const Outcome missing = exported("missing", " --tokenizer nowhere");
  CHECK(missing.exit_code == kExitUsage);
  check_error(last_line(missing.output), "tokenizer nowhere: no such file or directory");
  CHECK(exported("dangling", " --tokenizer").exit_code == kExitUsage);

  // A tokenizer whose end of text the model shares, and special_tokens_map.json next to it.
  nlohmann::json file =
      nlohmann::json::parse(hugging_face_tokenizer("bytes", read_tokenizer("bytes")).files["tokenizer.json"]);
  file["model"]["vocab"].erase("<|endoftext|>");
  file["model"]["vocab"]["<|more|>"] = 256;
  file["model"]["vocab"]["<|endoftext|>"] = file["added_tokens"][0]["id"] = 257;
  const std::string tokenizer = file.dump();
  fs::create_directory(dir.path() / "mine");
  for (const auto& [name, text] :
       {std::pair<const char*, std::string>{"tokenizer.json", tokenizer}, {"special_tokens_map.json", "{}"}})
    ssa::test::write_file(dir.path() / "mine" / name, text);
  for (const std::string& source :
       {(dir.path() / "mine").string(), (dir.path() / "mine" / "tokenizer.json").string()}) {
    INFO(source);
    fs::remove_all(dir.path() / "with");
    const Outcome with = exported("with", " --tokenizer " + source);
    INFO(with.output);
    CHECK(with.exit_code == kExitDone);
    CHECK(read_file(dir.path() / "with" / "tokenizer.json") == tokenizer);
    CHECK(read_file(dir.path() / "with" / "special_tokens_map.json") == "{}");
    const auto config = nlohmann::json::parse(read_file(dir.path() / "with" / "tokenizer_config.json"));
    CHECK(config.at("tokenizer_class") == "PreTrainedTokenizerFast");
    CHECK(config.at("eos_token") == "<|endoftext|>");
  }
  ssa::test::write_file(dir.path() / "mine" / "tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  fs::remove_all(dir.path() / "with");
  const Outcome replaced = exported("with", " --tokenizer " + (dir.path() / "mine").string());
  CHECK(replaced.exit_code == kExitDone);
  CHECK(replaced.output.find("tokenizer_config.json: tokenizer_class \"GPT2Tokenizer\" is written as "
                             "PreTrainedTokenizerFast") != std::string::npos);
}

TEST_CASE("ssa_inspect recognizes a run, checkpoint, file, model and dataset, and verifies them") {
  const TempDir dir;
  const fs::path run = dir.path() / "run";
  save(run, 7);
  MetricsLog(run / "metrics.jsonl", 0).append(nlohmann::json{{"step", 7}, {"loss", 2.5}});
  const fs::path checkpoint = run / "checkpoints" / "step-00000007";
  const auto says = [](const fs::path& path, const std::string& text) {
    const Outcome outcome = run_line("ssa_inspect --verify " + path.string());
    INFO(outcome.output);
    CHECK(outcome.exit_code == kExitDone);
    CHECK(outcome.output.find(text) != std::string::npos);
    CHECK(last_line(outcome.output) == "verified");
  };
  says(run, "step-00000007: complete\n  last metrics: {\"loss\":2.5,\"step\":7}");
  says(checkpoint, "checkpoint of step 7");
  says(checkpoint / "model.safetensors", "model.norm.weight F32 [64]");
  says(kModel, "model directory");
  says(kModel.parent_path() / "data", "dataset");

  const auto fails = [](const fs::path& path, int exit_code, const std::string& text) {
    const Outcome outcome = run_line("ssa_inspect --verify " + path.string());
    CHECK(outcome.exit_code == exit_code);
    check_error(last_line(outcome.output), "ssa_inspect: ", text);
  };
  save(run, 8, /*poison=*/true);
  const fs::path poisoned = run / "checkpoints" / "step-00000008";
  fails(poisoned, kExitFailed, "step-00000008/optimizer.safetensors: tensor m.model.norm.weight: element 3 is nan");
  fails(run, kExitFailed, "tensor m.model.norm.weight: element 3 is nan");
  fs::resize_file(poisoned / "model.safetensors", 5000);
  fails(poisoned, kExitFailed, "model.safetensors: 5000 bytes, the manifest says");
  fails(poisoned / "model.safetensors", kExitFailed, "model.safetensors: tensor ");
  fails(run, kExitFailed, "step-00000008: model.safetensors: 5000 bytes");
  fs::remove(poisoned / "manifest.json");
  fails(poisoned, kExitFailed, "step-00000008: not a complete checkpoint: manifest.json is missing");
  fs::remove_all(run / "checkpoints");
  fails(run, kExitFailed, "run: --verify: found no checkpoints, expected at least one");
  fails(dir.path() / "nowhere", kExitUsage, "nowhere: no such file or directory");
  const fs::path megatron = dir.path() / "megatron";
  fs::create_directory(megatron);
  for (const char* suffix : {".bin", ".idx"})
    fs::copy(kModel.parent_path() / "data" / (std::string("shard-00000") + suffix),
             megatron / (std::string("text_document") + suffix));
  says(megatron, "text_document: dataset");
  ssa::test::write_file(megatron / "more_document.bin", "1234");
  fails(megatron, kExitFailed, "more_document.idx: missing, expected next to more_document.bin");
  fails(dir.path(), kExitUsage, "neither a dataset");
}

TEST_CASE("output that cannot be written is an error, and a reader that has read enough is not") {
  const TempDir dir;
  ssa::test::write_file(dir / "text.txt", "ab");
  const fs::path data = kModel.parent_path() / "data", config = kModel.parent_path() / "config.json";
  const auto run = [&](const std::string& line) {
    const fs::path programs = ssa::test::binary_dir();
    return ssa::test::run_program(
        {"/bin/bash", "-o", "pipefail", "-c",
         "cd " + config.parent_path().string() + "; PATH=" + programs.string() + ":$PATH; " + line});
  };
  REQUIRE(run("ssa_tokenize --tokenizer bytes --input " + (dir / "text.txt").string() + " --output " +
              (dir / "bytes").string())
              .exit_code == kExitDone);
  for (const std::string& line :
       {"ssa_inspect " + data.string(), "ssa_tokenize --tokenizer bytes --decode " + (dir / "bytes").string(),
        std::string("ssa_train --print-config-keys"), std::string("ssa_train --help"),
        "ssa_train --dry-run --device cpu --config " + config.string()}) {
    INFO(line);
    ssa::test::check_fails(run(line + " > /dev/full"), kExitFailed, {"standard output: "});
    CHECK(run(line + " > /dev/null").exit_code == kExitDone);
  }
  CHECK(run("{ ssa_train --print-config-keys; } | true").err.empty());
}

TEST_CASE("ssa_train --dry-run under a launcher is printed by rank 0 only") {
  const std::string train = (ssa::test::binary_dir() / "ssa_train").string();
  for (const std::string launcher :
       {"OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=", "PMI_SIZE=2 PMI_RANK=",
        "MV2_COMM_WORLD_SIZE=2 MV2_COMM_WORLD_RANK=", "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID="})
    for (const std::string rank : {"0", "1"}) {
      const auto result =
          ssa::test::run_program({"/bin/bash", "-c", launcher + rank + " " + train + " --dry-run --config config.json"},
                                 {.directory = kModel.parent_path()});
      INFO(launcher << rank << "\n" << result.out << result.err);
      CHECK(result.exit_code == kExitDone);
      CHECK((result.out.find("memory on cpu") != std::string::npos) == (rank == "0"));
      CHECK((result.out + result.err).empty() == (rank == "1"));
    }
}

TEST_CASE("ssa_export and ssa_inspect have a help text and report wrong usage") {
  for (const std::string program : {"ssa_export", "ssa_inspect"}) {
    const Outcome help = run_line(program + " --help");
    CHECK(help.exit_code == kExitDone);
    CHECK(help.output.find("Example:") != std::string::npos);
    CHECK(run_line(program).exit_code == kExitUsage);
    CHECK(run_line(program + " --no-such-option x").exit_code == kExitUsage);
  }
  check_error(run_line("ssa_export /nowhere out").output, "/nowhere: no such directory");
  for (const std::string size : {"0", "-1", "5GB", "nan", "''"})
    check_error(run_line("ssa_export a b --max-shard-size " + size).output, "--max-shard-size ",
                "expected a number of GB above 0");
  check_error(run_line("ssa_export a b --dtype f16").output, "--dtype f16: expected bf16 or f32");
}
