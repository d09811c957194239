#include <unistd.h>

#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "support/catch.h"
#include "support/paths.h"

using namespace ssa;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::StartsWith;
namespace fs = std::filesystem;

namespace {

constexpr const char* kModel = R"({"vocab_size": 272, "hidden_size": 64, "intermediate_size": 160,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})";

/// A config with just the required keys and `more` at the end of its train section.
std::string minimal(const std::string& more = "", const std::string& model = kModel) {
  return R"({"model": )" + model + R"(, "output_dir": "out", "data": {"path": "data"},
    "train": {"max_length": 32, "per_device_train_batch_size": 2, "learning_rate": 0.01)" +
         more + "}}";
}

/// The message of the UsageError that `run` must throw, which must be one line.
template <class Run>
std::string usage_error(const Run& run) {
  try {
    run();
  } catch (const UsageError& error) {
    const std::string message = error.what();
    CHECK(error.exit_code() == kExitUsage);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return "no error";
}

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return usage_error([&] { parse_config(text, "c.json", overrides); });
}

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "c.json", overrides);
}

/// A temporary directory for one test case.
struct TemporaryDirectory {
  fs::path path = fs::temp_directory_path() / concat("ssa_config_test_", ::getpid());
  TemporaryDirectory() { fs::create_directories(path); }
  ~TemporaryDirectory() { fs::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name) << text;
    return (path / name).string();
  }
};

std::int64_t parameters(const ModelConfig& m) {
  const std::int64_t block = m.hidden_size * (m.qkvg_width() + m.q_width() + 3 * m.intermediate_size + 2);
  const std::int64_t embeddings = m.vocab_size * m.hidden_size * (m.tie_word_embeddings ? 1 : 2);
  return embeddings + m.num_hidden_layers * block + m.hidden_size;
}

}  // namespace

TEST_CASE("config: missing keys have their defaults") {
  const Config c = parse(minimal());
  CHECK(c.model.vocab_size == 272);
  CHECK(c.model_source.empty());
  CHECK(c.model.tie_word_embeddings);
  CHECK_FALSE(c.init_from);
  CHECK(c.attention == AttentionConfig{});
  CHECK(c.data.packing == Packing::greedy);
  CHECK(c.train.gradient_accumulation_steps == 1);
  CHECK(c.train.warmup_ratio == 0.01);
  CHECK_FALSE(c.train.warmup_steps);
  CHECK(c.train.seed == 42);
  CHECK(c.checkpoint == CheckpointConfig{});
}

TEST_CASE("config: a run with a Hugging Face model file") {
  const TemporaryDirectory directory;
  const std::string model = directory.write("model.json", R"({
 "vocab_size": 272, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
 "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 16},
 "initializer_range": 0.02, "tie_word_embeddings": false, "block_size": 4, "block_counts": 3, "window_size": 0,
 "model_type": "llama-nsa", "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
 "attention_method": "moba", "pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257,
 "max_position_embeddings": 131072, "architectures": ["LlamaNSAForCausalLM"]})");
  const std::string config = directory.write("config.json", R"({
 "model": ")" + model + R"(",
 "init_from": "model",
 "output_dir": "out",
 "attention": {"method": "full", "alignment_weight": 10.0, "full_stream_probability": 0.0, "selection": "exact"},
 "data": {"path": "data", "packing": "concat", "shuffle": false},
 "train": {
  "max_length": 33, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 0.01,
  "min_lr": 0.001, "lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 2, "max_steps": 8, "weight_decay": 0.1,
  "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-08, "max_grad_norm": 1.0, "seed": 42}})");

  const Config c = load_config(config);
  CHECK(c.model_source == model);
  CHECK(c.model == load_model_config(model));
  CHECK_FALSE(c.model.tie_word_embeddings);
  CHECK(c.model.rope_scaling == RopeScaling{8.0, 1.0, 4.0, 16});
  CHECK(c.model.block_counts == 3);
  CHECK(c.init_from == "model");
  CHECK(c.attention.method == Method::full);
  CHECK(c.data.packing == Packing::concat);
  CHECK(c.train.warmup_steps == 2);
  CHECK_FALSE(c.train.warmup_ratio);
  CHECK(parse(config_json(c)) == c);

  CHECK(load_config(config, {"model.block_counts=8"}).model.block_counts == 8);
  CHECK(load_config(config, {"model.rope_scaling.factor=4"}).model.rope_scaling->factor == 4.0);
  CHECK_FALSE(load_config(config, {"model.rope_scaling=null"}).model.rope_scaling);
  CHECK(usage_error([&] { load_config(config, {"model.block_size=0"}); }) ==
        "--set model.block_size=0: model.block_size: found 0, expected an integer from 1 to 1000000000");
  CHECK(usage_error([&] { load_config(config, {"model.block_cont=8"}); }) ==
        "--set model.block_cont=8: model.block_cont: unknown key; did you mean model.block_counts?");

  const std::string gelu = directory.write("gelu.json", R"({"hidden_act": "gelu"})");
  CHECK(usage_error([&] { load_config(config, {"model=" + gelu}); }) ==
        gelu + ": hidden_act: found \"gelu\", expected \"silu\"");
  CHECK(usage_error([&] { load_model_config(gelu); }) == gelu + ": hidden_act: found \"gelu\", expected \"silu\"");
  const std::string broken = directory.write("broken.json", "{\n \"vocab_size\": 272,,");
  CHECK_THAT(usage_error([&] { load_config(config, {"model=" + broken}); }),
             StartsWith(broken + ": line 2, column 20: not valid JSON: "));
  const std::string missing = (directory.path / "none.json").string();
  CHECK(usage_error([&] { load_config(config, {"model=" + missing}); }) ==
        "--set model: " + missing + ": cannot open: No such file or directory");
  CHECK(usage_error([&] { load_config(missing); }) == missing + ": cannot open: No such file or directory");
  CHECK(usage_error([&] { load_config(directory.path); }) ==
        directory.path.string() + ": is a directory, expected a JSON file");
}

TEST_CASE("config: a model may omit keys that follow from others") {
  const Config c = parse(minimal("", R"({"vocab_size": 272, "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 4, "rope_scaling": {"rope_type": "default"}})"));
  CHECK(c.model.num_key_value_heads == 4);
  CHECK(c.model.head_dim == 16);
  CHECK_FALSE(c.model.rope_scaling);
}

TEST_CASE("config: the files of configs/ load, and the saved config loads as the same") {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(ssa::test::source_dir() / "configs")) {
    CAPTURE(entry.path().string());
    const Config c = load_config(entry.path());
    CHECK(parse(config_json(c)) == c);
    CHECK(c.output_dir == "runs/" + entry.path().stem().string());
    const std::string method = entry.path().stem().string().substr(0, entry.path().stem().string().find('-'));
    if (method != "tiny")
      CHECK(method == (c.attention.method == Method::full ? "fullattn" : name_of(c.attention.method)));
    ++files;
  }
  CHECK(files == 14);
}

TEST_CASE("config: the four 1B models have the values of the published config.json files") {
  for (const auto& [name, block_size, window_size] :
       {std::tuple{"ssa", 16, 0}, {"fullattn", 64, 0}, {"moba", 16, 0}, {"nsa", 16, 128}}) {
    const Config c = load_config(ssa::test::source_dir() / "configs" / (std::string(name) + "-1b.json"));
    ModelConfig published;
    published.vocab_size = 128256;
    published.hidden_size = 2048;
    published.intermediate_size = 8192;
    published.num_hidden_layers = 16;
    published.num_attention_heads = 32;
    published.num_key_value_heads = 2;
    published.head_dim = 64;
    published.rms_norm_eps = 1e-5;
    published.rope_theta = 500000.0;
    published.initializer_range = 0.02;
    published.tie_word_embeddings = true;
    published.block_size = block_size;
    published.block_counts = 16;
    published.window_size = window_size;
    published.max_position_embeddings = 131072;
    published.bos_token_id = 128000;
    published.eos_token_id = 128001;
    INFO(name);
    CHECK(c.model == published);
    CHECK(c.train.max_length == 8192);
    CHECK(parameters(c.model) == 1213794304);  // 1214M
    CHECK(c.model.group() == 16);
  }
}

TEST_CASE("config: ssa-1b-32k has the second stage of the paper: 10B tokens at 32k, rate 1e-5, factor 4") {
  const fs::path configs = ssa::test::source_dir() / "configs";
  const Config c = load_config(configs / "ssa-1b-32k.json"), first = load_config(configs / "ssa-1b.json");
  CHECK(c.train.learning_rate == 1e-5);
  CHECK(c.train.max_length == 32768);
  CHECK(c.train.gradient_checkpointing == GradientCheckpointing::full);
  const std::int64_t step_tokens = batch_sizes(c.train, 8).rows_at(0) * c.train.max_length;
  CHECK(step_tokens == 3145728);  // the paper's batch of 3.15M tokens
  CHECK(c.train.max_steps * step_tokens >= 10'000'000'000);
  CHECK((c.train.max_steps - 1) * step_tokens < 10'000'000'000);
  CHECK(c.init_from == first.output_dir);
  CHECK(c.init_state == InitState::weights);
  ModelConfig model = first.model;
  model.rope_scaling = RopeScaling{.factor = 4, .original_max_position_embeddings = first.train.max_length};
  CHECK(c.model == model);
  CHECK(c.attention == first.attention);
  CHECK(c.data.sources.at(1).min_document_tokens == first.train.max_length);
  CHECK(min_document_tokens(c.data.sources.at(0), c.data) == 0);
}

TEST_CASE("config: every key survives saving and loading") {
  const std::vector<std::string> overrides = {"init_from=weights",
                                              "attention.method=nsa",
                                              "attention.alignment_weight=0.1",
                                              "attention.aligned_outputs=sparse",
                                              "attention.full_stream_probability=0.3",
                                              "attention.stream_granularity=row",
                                              "attention.selection=reference",
                                              "data.packing=concat",
                                              "data.shuffle=false",
                                              "data.skip_train_samples=7",
                                              "data.max_train_samples=1e3",
                                              "data.eval_path=held-out",
                                              "train.global_batch_size=64",
                                              "train.num_train_epochs=2.5",
                                              "train.max_steps=100",
                                              "train.learning_rate=0.1234567890123456",
                                              "train.min_lr=1e-7",
                                              "train.lr_scheduler_type=warmup_stable_decay",
                                              "train.warmup_steps=3",
                                              "train.weight_decay=0",
                                              "train.adam_beta1=0.5",
                                              "train.adam_beta2=0.999",
                                              "train.adam_epsilon=1e-6",
                                              "train.max_grad_norm=0",
                                              "train.seed=9007199254740993",
                                              "train.gradient_checkpointing=selective",
                                              "train.logging_steps=10",
                                              "train.eval_steps=5",
                                              "train.attention_stats_steps=20",
                                              "checkpoint.save_steps=250",
                                              "checkpoint.save_total_limit=3",
                                              "checkpoint.async=true",
                                              "distributed.zero_stage=2",
                                              "model.window_size=5",
                                              "model.bos_token_id=1",
                                              "model.eos_token_id=2",
                                              "model.rms_norm_eps=1e-6",
                                              "model.tie_word_embeddings=false"};
  const Config c = parse(minimal(), overrides), plain = parse(minimal());
  CHECK(parse(config_json(c)) == c);
  CHECK(c.train.seed == 9007199254740993);
  CHECK(c.data.max_train_samples == 1000);
  CHECK(c.train.lr_scheduler_type == LrScheduler::warmup_stable_decay);

  // every override changes one line of the log, and so do the two values that they replace
  const auto changed = config_lines(c), before = config_lines(plain);
  REQUIRE(changed.size() == before.size());
  std::size_t differing = 0;
  for (std::size_t i = 0; i < changed.size(); ++i) differing += changed[i] != before[i];
  CHECK(differing == overrides.size() + 2);
  CHECK(std::count(changed.begin(), changed.end(), "train.gradient_accumulation_steps = null") == 1);
  CHECK(std::count(changed.begin(), changed.end(), "data.eval_path = held-out") == 1);
}

TEST_CASE("config: --set takes JSON or a bare string") {
  CHECK(parse(minimal(), {"output_dir=123"}).output_dir == "123");
  CHECK(parse(minimal(), {"output_dir=\"quoted\""}).output_dir == "quoted");
  CHECK(parse(minimal(), {"output_dir=a=b"}).output_dir == "a=b");
  CHECK(parse(minimal(), {"attention.method=moba"}).attention.method == Method::moba);
  CHECK_FALSE(parse(minimal(), {"data.eval_path=x", "data.eval_path=null"}).data.eval_path.size());
  CHECK(parse(minimal(), {R"(checkpoint={"save_steps": 3, "async": true})"}).checkpoint.save_steps == 3.0);
  CHECK(error_of(minimal(), {R"(checkpoint={"save_stps": 3})"}) ==
        R"(--set checkpoint={"save_stps": 3}: checkpoint.save_stps: unknown key; did you mean checkpoint.save_steps?)");
  CHECK(error_of(minimal(), {"train.seed"}) == "--set train.seed: expected section.key=value");
  CHECK(error_of(minimal(), {"train.sede=1"}) ==
        "--set train.sede=1: train.sede: unknown key; did you mean train.seed?");
  CHECK(parse(minimal(), {"train.seed=1000000000000000000"}).train.seed == 1000000000000000000);
  CHECK(error_of(minimal(), {"train.seed=9223372036854775807"}) ==
        "--set train.seed=9223372036854775807: train.seed: found 9223372036854775807, expected an integer from 0 to "
        "1e+18");
  CHECK(error_of(minimal(), {"train.seed=x"}) ==
        "--set train.seed=x: train.seed: found \"x\", expected an integer from 0 to 1e+18");
  CHECK(error_of(minimal(), {"train.learning_rate=nan"}) ==
        "--set train.learning_rate=nan: train.learning_rate: found \"nan\", expected a number above 0");
  CHECK_THAT(error_of(minimal(), {"output_dir=runs/\xff"}),
             EndsWith(": output_dir: found bytes that are not UTF-8, expected UTF-8"));
}

TEST_CASE("config: the error for a bad value states the file, what was found and what was expected") {
  const auto cases = std::vector<std::pair<std::string, std::string>>{
      {R"(, "learning_rat": 1)", "train.learning_rat: unknown key; did you mean train.learning_rate?"},
      {R"(, "method": "ssa")", "train.method: unknown key; did you mean attention.method?"},
      {R"(, "save_step": 5)", "train.save_step: unknown key; did you mean checkpoint.save_steps?"},
      {R"(, "sede": 1)", "train.sede: unknown key; did you mean train.seed?"},
      {R"(, "a\nb": 1)", R"(train.a\nb: unknown key; did you mean train.fp8?)"},
      {R"(, "seed": 1.5)", "train.seed: found 1.5, expected an integer from 0 to 1e+18"},
      {R"(, "seed": -1)", "train.seed: found -1, expected an integer from 0 to 1e+18"},
      {R"(, "seed": 1e30)", "train.seed: found 1e+30, expected an integer from 0 to 1e+18"},
      {R"(, "seed": 18446744073709551615)",
       "train.seed: found 18446744073709551615, expected an integer from 0 to 1e+18"},
      {R"(, "seed": "42")", "train.seed: found \"42\", expected an integer from 0 to 1e+18"},
      {R"(, "seed": null)", "train.seed: found null, expected an integer from 0 to 1e+18"},
      {R"(, "seed": [42])", "train.seed: found [42], expected an integer from 0 to 1e+18"},
      {R"(, "warmup_steps": 0.5)", "train.warmup_steps: found 0.5, expected an integer from 0 to 1000000000"},
      {R"(, "adam_beta1": 1)", "train.adam_beta1: found 1, expected a number from 0 to below 1"},
      {R"(, "weight_decay": true)", "train.weight_decay: found true, expected a number of at least 0"},
      {R"(, "lr_scheduler_type": "cosin")",
       "train.lr_scheduler_type: found \"cosin\", expected cosine_with_min_lr, cosine, linear, constant_with_warmup "
       "or warmup_stable_decay"},
      {R"(, "max_steps": 0)", "train.max_steps: found 0, expected -1 or an integer of at least 1"},
      {R"(, "min_lr": 0.1)", "train.min_lr: found 0.1, expected at most train.learning_rate 0.01"},
      {R"(, "min_lr": 0.001, "lr_scheduler_type": "linear")",
       "train.min_lr: found 0.001, expected 0: train.lr_scheduler_type linear has no minimum; cosine_with_min_lr has"},
      {R"(, "gradient_accumulation_steps": 2, "global_batch_size": 4)",
       "train.global_batch_size: found 4 together with train.gradient_accumulation_steps 2, expected only one of the "
       "three"},
      {R"(, "warmup_ratio": 0.5, "warmup_steps": 4)",
       "train.warmup_steps: found 4 together with train.warmup_ratio 0.5, expected only one of the two"},
      {R"(, "eval_steps": 4)", "train.eval_steps: found 4, expected 0 without data.eval_path"},
      {R"(, "max_length": 64)", "train.max_length: given twice, expected once"},
  };
  for (const auto& [more, expected] : cases) {
    CAPTURE(more);
    CHECK(error_of(minimal(more)) == "c.json: " + expected);
  }
}

TEST_CASE("config: errors for bad values from --set and in the model") {
  const auto cases = std::vector<std::pair<std::string, std::string>>{
      {"distributed.zero_stage=4", "distributed.zero_stage: found 4, expected an integer from 0 to 3"},
      {"attention.full_stream_probability=1.5",
       "attention.full_stream_probability: found 1.5, expected a number from 0 to 1"},
      {"checkpoint.save_steps=1.5", "checkpoint.save_steps: found 1.5, expected whole steps or a fraction below 1"},
      {"checkpoint.async=1", "checkpoint.async: found 1, expected true or false"},
      {"output_dir=", "output_dir: found \"\", expected a path"},
      {"data=5", "data: found 5, expected an object"},
      {"data={}",
       "data.path: missing, expected a path (directory of the tokenized dataset, or a Megatron prefix) or "
       "data.sources"},
      {"train.max_length=10000", "train.max_length: found 10000, expected at most model.max_position_embeddings 8192"},
      {"model.num_key_value_heads=3",
       "model.num_key_value_heads: found 3, expected a divisor of num_attention_heads 4"},
      {"model.head_dim=15", "model.head_dim: found 15, expected an even number"},
      {"model.eos_token_id=272", "model.eos_token_id: found 272, expected an id below vocab_size 272"},
      {"model.rope_scaling.factor=8", "model.rope_scaling.rope_type: missing, expected llama3 (kind of scaling)"},
  };
  for (const auto& [argument, expected] : cases) {
    CAPTURE(argument);
    CHECK_THAT(error_of(minimal(), {argument}), EndsWith(": " + expected));
  }
  // As f32, AdamW would have an epsilon of infinity and change nothing, or of 0 and divide by it.
  const std::string held = " that a 32-bit float holds: 0, or 1.2e-38 to 3.4e38 in size";
  for (const char* value : {"1e+300", "1e-300", "1e-39"})
    CHECK_THAT(error_of(minimal(), {std::string("train.adam_epsilon=") + value}),
               EndsWith(concat(": train.adam_epsilon: found ", value, ", expected a number above 0", held)));
  CHECK_THAT(error_of(minimal(), {"train.max_grad_norm=1e-46"}), EndsWith("expected a number of at least 0" + held));
  CHECK_THAT(error_of(minimal(), {"model.rms_norm_eps=1e300"}), EndsWith(held));
  CHECK(parse_config(minimal(), "c.json", {"train.adam_epsilon=1.2e-38"}).train.adam_epsilon == 1.2e-38);
  CHECK(parse_config(minimal(), "c.json", {"train.max_grad_norm=3e38"}).train.max_grad_norm == 3e38);
  CHECK(error_of(minimal("", R"({"vocab_size": 9, "attention_bias": true})")) ==
        "c.json: model.attention_bias: found true, expected false");
  CHECK(error_of(minimal("", R"({"rope_parameters": {"rope_theta": 10.0}, "rope_theta": 20.0})")) ==
        "c.json: model.rope_parameters: has rope_theta 10.0, the key of that name 20.0; expected one of them, or the "
        "same");
  CHECK(error_of(minimal("", R"({"vocab_size": 9, "block_cuonts": 4})")) ==
        "c.json: model.block_cuonts: unknown key; did you mean model.block_counts?");
  CHECK(error_of(minimal("", R"({"vocab_size": 9})")) ==
        "c.json: model.hidden_size: missing, expected an integer from 1 to 1000000 (width of the residual stream)");
}

TEST_CASE("config: every size has an upper bound, and so have their products") {
  const std::string text = minimal();
  // Keys that these values fit: real numbers and paths.
  const std::vector<std::string> no_size = {
      "train.seed",         "train.spike_z_score",     "model.rms_norm_eps",
      "model.rope_theta",   "model.initializer_range", "attention.alignment_weight",
      "data.path",          "train.learning_rate",     "train.weight_decay",
      "train.adam_epsilon", "train.max_grad_norm",     "init_from",
      "output_dir",         "data.eval_path"};
  for (const std::string& line : config_lines(parse(text))) {
    const std::string key = line.substr(0, line.find(' '));
    if (std::find(no_size.begin(), no_size.end(), key) != no_size.end()) continue;
    for (const char* value : {"4000000000001", "4611686018427387904", "18446744073709551616", "1e300"}) {
      INFO(key << "=" << value);
      CHECK_THAT(error_of(text, {key + "=" + value}), Contains("expected "));
    }
  }
  CHECK(error_of(text, {"model.block_counts=1152921504606846976"}) ==
        "--set model.block_counts=1152921504606846976: model.block_counts: found 1152921504606846976, expected an "
        "integer from 1 to 1000000");
  CHECK(error_of(text, {"model.hidden_size=4611686018427387904"}).ends_with("expected an integer from 1 to 1000000"));
  CHECK(error_of(text, {"model.num_hidden_layers=2147483648"}).ends_with("expected an integer from 1 to 2000"));
  CHECK(error_of(text, {"train.num_train_epochs=1e300"}).ends_with("expected a number above 0, up to 100000"));
  // Each in range; together too large.
  CHECK_THAT(
      error_of(text, {"model.num_hidden_layers=2000", "model.hidden_size=1000000", "model.intermediate_size=1000000"}),
      StartsWith("--set model.hidden_size=1000000: model.hidden_size: found 1000000 with 2000 layers: a model of "
                 "6"));
  CHECK_THAT(error_of(text, {"model.max_position_embeddings=1000000000", "train.max_length=1000000000",
                             "train.per_device_train_batch_size=1000000"}),
             StartsWith("--set train.max_length=1000000000: train.max_length: found 1000000000 with "
                        "train.per_device_train_batch_size 1000000: ") &&
                 EndsWith("activations in a micro-batch of this model, expected at most 1e+15"));
  parse(text, {"model.max_position_embeddings=1000000000", "train.max_length=10000000"});
}

TEST_CASE("config: the error for malformed JSON states line and column") {
  CHECK_THAT(error_of("{\n  \"train\": {,\n}"),
             StartsWith("c.json: line 2, column 13: not valid JSON: unexpected \",\""));
  CHECK(error_of("") == "c.json: line 1, column 1: not valid JSON: the text ends too early");
  CHECK_THAT(error_of(minimal(R"(, "min_lr": NaN)")), StartsWith("c.json: line 3, column "));
  CHECK(error_of(minimal(R"(, "min_lr": 1e999)")) == "c.json: not valid JSON: a number out of range");
  CHECK_THAT(error_of(minimal("}")), StartsWith("c.json: line 3, column "));
  CHECK(error_of("[]") == "c.json: found [], expected an object");
  CHECK(error_of("{\"output_dir\": \"a\", \"output_dir\": \"b\"}") == "c.json: output_dir: given twice, expected once");
  CHECK_THAT(error_of("{}"), StartsWith("c.json: model: missing, expected a path or an object"));
  CHECK(error_of("{\"tran\": {}}") == "c.json: tran: unknown key; did you mean train?");
}

TEST_CASE("config: an error shows at most 300 characters of what was wrong") {
  const std::string hostile(5000, 'x');
  for (const std::string& error :
       {error_of("{\"" + hostile + "\": 1}"), error_of("{" + hostile + "}"), error_of(hostile),
        error_of("{\"a\": \"" + hostile), error_of(minimal(", \"seed\": \"" + hostile + "\"")),
        error_of(minimal(", \"" + hostile + "\": 1")), error_of(minimal(), {hostile}),
        error_of(minimal(), {hostile + "=1"}), error_of(minimal(), {"train.seed=" + hostile}),
        error_of(minimal(), {"train=[" + hostile + "]"}), error_of(minimal(), {"model=" + hostile})}) {
    INFO(error);
    CHECK(std::count(error.begin(), error.end(), 'x') <= 300);
    CHECK(error.size() < 600);
    CHECK(error.find("json.exception") == std::string::npos);
  }
  const std::string deep(100000, '[');
  CHECK(error_of(deep).size() < 300);
  CHECK(error_of(minimal(), {"train=" + deep}).size() < 600);
}

TEST_CASE("config: data.sources instead of data.path, and evaluation sets with names") {
  const std::string sources =
      R"(data.sources=[{"path": "z/web/", "weight": 7}, {"path": "x", "weight": 3, "name": "a-b"}])";
  const Config c = parse(minimal(), {sources, R"(data.eval_path={"web": "w", "code": "c"})"});
  CHECK_FALSE(c.data.path);
  CHECK(c.data.sources == std::vector<SourceConfig>{{"x", 3, "a-b"}, {"z/web/", 7, "web"}});
  CHECK(c.data.eval_path == std::vector<EvalConfig>{{"code", "c"}, {"web", "w"}});
  CHECK(parse(config_json(c)) == c);
  CHECK(training_paths(c.data) == std::vector<std::string>{"x", "z/web/"});
  CHECK(parse(config_json(c), {"data.path=p"}).data.sources.empty());
  CHECK(parse(minimal(), {"data.eval_path=held"}).data.eval_path == std::vector<EvalConfig>{{"", "held"}});

  const auto cases = std::vector<std::pair<std::string, std::string>>{
      {R"(data.sources={"path": "x"})",
       "data.sources: found {\"path\":\"x\"}, expected a list of {path, weight, name, min_document_tokens}"},
      {R"(data.sources=["x"])", "data.sources[0]: found \"x\", expected an object"},
      {R"(data.sources=[{"path": "x"}])",
       "data.sources[0].weight: missing, expected a number above 0, up to 1000000 (share of the rows, relative to the "
       "other weights)"},
      {R"(data.sources=[{"path": "x", "weight": 0}])",
       "data.sources[0].weight: found 0, expected a number above 0, up to 1000000"},
      {R"(data.sources=[{"path": "x", "weight": 3}, {"path": "y", "weight": 1e-300}])",
       "data.sources: found weight 1e-300 of y, expected at least 8.67362e-19 of the sum of the weights, 3"},
      {R"(data.sources=[{"path": "x", "weight": 1}, {"path": "y", "wieght": 1, "weight": 1}])",
       "data.sources[1].wieght: unknown key, expected path, weight, name and min_document_tokens"},
      {R"(data.sources=[{"path": "a/x", "weight": 1}, {"path": "b/x", "weight": 1}])",
       "data.sources: found the name \"x\" twice, expected one each"},
      {R"(data.sources=[{"path": "x", "weight": 1, "name": "a b"}])",
       "data.sources[0].name: found the name \"a b\", expected 1 to 64 letters, digits, '.', '_' or '-'"},
      {R"(data.eval_path={})", "data.eval_path: found {}, expected a path, an object {name: path, ...} or null"},
      {R"(data.eval_path={"a": 1})",
       "data.eval_path: found {\"a\":1}, expected a path, an object {name: path, ...} or null"},
      {R"(data.sources=[{"path": "x", "weight": 1, "name": ""}])",
       "data.sources[0].name: found the name \"\", expected 1 to 64 letters, digits, '.', '_' or '-'"},
      {R"(data.sources=[{"path": "x", "weight": 1, "name": "a\n\u0000\u001b"}])",
       R"(data.sources[0].name: found the name "a\n\u0000\u001b", expected 1 to 64 letters, digits, '.', '_' or '-')"},
      {R"(data.eval_path={"a\n": "x"})",
       R"(data.eval_path: found the name "a\n", expected 1 to 64 letters, digits, '.', '_' or '-')"},
      {R"(data.eval_path={"a/b": "x"})",
       "data.eval_path: found the name \"a/b\", expected 1 to 64 letters, digits, '.', '_' or '-'"},
  };
  for (const auto& [argument, expected] : cases) {
    CAPTURE(argument);
    const std::string error = error_of(minimal(), {argument});
    CHECK_THAT(error, StartsWith("--set data.") && EndsWith(": " + expected));
  }
  CHECK(error_of(minimal(), {sources, "data.path=p"})
            .ends_with("together with data.path \"p\", expected only one of the two"));
  CHECK(error_of(minimal(), {sources, "data.max_train_samples=5"})
            .ends_with("data.max_train_samples: found 5, expected 0 with data.sources"));
}

TEST_CASE("config: each missing required key is an error") {
  for (const std::string key : {"model", "output_dir", "data.path", "train.max_length",
                                "train.per_device_train_batch_size", "train.learning_rate"}) {
    std::string text = minimal();
    const std::string name = concat('"', key.substr(key.find('.') + 1), "\": ");
    const std::size_t begin = text.find(name);
    REQUIRE(begin != std::string::npos);
    // the value ends before the next comma or brace at its own depth
    std::size_t end = begin + name.size();
    for (int depth = 0; depth > 0 || (text[end] != ',' && text[end] != '}'); ++end) {
      depth += (text[end] == '{') - (text[end] == '}');
    }
    if (text[end] == ',') {
      text.erase(begin, end + 1 - begin);
    } else {
      const std::size_t comma = text.find_last_of(",{", begin - 1);
      text.erase(text[comma] == ',' ? comma : begin, end - (text[comma] == ',' ? comma : begin));
    }
    CAPTURE(text);
    CHECK_THAT(error_of(text), StartsWith("c.json: " + key + ": missing, expected "));
  }
}

TEST_CASE("config: --set replaces the file's value of a mutually exclusive key") {
  const Config batch = parse(minimal(R"(, "gradient_accumulation_steps": 4)"), {"train.global_batch_size=8"});
  CHECK_FALSE(batch.train.gradient_accumulation_steps);
  CHECK(batch_sizes(batch.train, 1).rows_at(0) == 8);
  CHECK(batch_sizes(batch.train, 2).rows_at(0) == 8);
  CHECK(usage_error([&] { batch_sizes(batch.train, 3); }) ==
        "train.global_batch_size: found 8, expected a multiple of 6 (2 rows per micro-batch on 3 ranks)");
  const Config steps = parse(minimal(R"(, "global_batch_size": 8)"), {"train.gradient_accumulation_steps=3"});
  CHECK_FALSE(steps.train.global_batch_size);
  CHECK(batch_sizes(steps.train, 5).rows_at(0) == 30);
  CHECK_THAT(error_of(minimal(), {"train.warmup_steps=3", "train.warmup_ratio=0.5"}),
             EndsWith("expected only one of the two"));
  const Config neither = parse(minimal(R"(, "gradient_accumulation_steps": null)"));
  CHECK(neither.train.gradient_accumulation_steps == 1);
}

TEST_CASE("config: the schedule of the batch size, and the decay") {
  const std::string schedule = R"(, "global_batch_size_schedule": [[0, 4], [10, 8]])";
  const Config c = parse(minimal(schedule));
  CHECK_FALSE(c.train.gradient_accumulation_steps);
  CHECK(batch_sizes(c.train, 2).schedule() == std::vector<BatchSize>{{0, 4}, {10, 8}});
  CHECK(parse(config_json(c)) == c);
  CHECK(usage_error([&] { batch_sizes(c.train, 4); }) ==
        "train.global_batch_size_schedule: found 4, expected a multiple of 8 (2 rows per micro-batch on 4 ranks)");
  CHECK(parse(minimal(schedule), {"train.global_batch_size=6"}).train.global_batch_size_schedule.empty());
  CHECK(parse(minimal(R"(, "global_batch_size": 8)"), {"train.global_batch_size_schedule=[[0,2]]"}) ==
        parse(minimal(R"(, "global_batch_size_schedule": [[0, 2]])")));
  CHECK_THAT(
      error_of(minimal(R"(, "global_batch_size_schedule": [[0, 8], [5, 4], [3, 8]])")),
      EndsWith("train.global_batch_size_schedule: found [[0,8],[5,4],[3,8]], expected a list of [first_step, rows] "
               "with steps that rise from 0"));
  CHECK_THAT(
      error_of(minimal(schedule + R"(, "global_batch_size": 8)")),
      EndsWith(
          "train.global_batch_size_schedule: found [[0,4],[10,8]] together with train.global_batch_size 8, expected "
          "only one of the three"));
  for (const char* bad : {"[[1, 4]]", "[[0, 4], [0, 8]]", "[[0, 0]]", "[[0]]", "[4]", "4"})
    CHECK_THAT(error_of(minimal(concat(R"(, "global_batch_size_schedule": )", bad))),
               EndsWith("expected a list of [first_step, rows] with steps that rise from 0"));

  const std::string wsd = R"(, "lr_scheduler_type": "warmup_stable_decay", "decay_steps": 5, "decay_type": "1-sqrt")";
  const Config decay = parse(minimal(wsd));
  CHECK_FALSE(decay.train.decay_ratio);
  CHECK(parse(config_json(decay)) == decay);
  CHECK(parse(minimal(wsd), {"train.decay_ratio=0.5"}).train.decay_ratio == 0.5);
  for (const auto& [set, expected] : std::vector<std::pair<std::string, std::string>>{
           {"train.decay_steps=5", "train.decay_steps: found 5, expected null: "},
           {"train.decay_ratio=0.2", "train.decay_ratio: found 0.2, expected no value: "},
           {"train.decay_type=cosine", "train.decay_type: found cosine, expected no value: "}})
    CHECK_THAT(error_of(minimal(), {set}),
               EndsWith(expected + "train.lr_scheduler_type cosine_with_min_lr has no decay phase; "
                                   "warmup_stable_decay has"));
  // The reference selection chooses block_size / 2 blocks at a time.
  for (const char* method : {"ssa", "moba", "nsa"})
    CHECK_THAT(error_of(minimal(), {std::string("attention.method=") + method, "attention.selection=reference",
                                    "model.block_size=1"}),
               EndsWith("attention.selection: found reference with model.block_size 1, expected exact, or blocks of at "
                        "least 2 tokens"));
  CHECK(error_of(minimal(), {"attention.selection=exact", "model.block_size=1"}) == "no error");
  CHECK(error_of(minimal(), {"attention.selection=reference", "model.block_size=2"}) == "no error");
  CHECK(error_of(minimal(), {"attention.method=full", "attention.selection=reference", "model.block_size=1"}) ==
        "no error");
  CHECK_THAT(error_of(minimal(), {"init_state=run"}),
             EndsWith("init_state: found run, expected weights without init_from"));
}

TEST_CASE("config: rope_parameters of transformers 5 are read as rope_theta and rope_scaling") {
  const auto model = [](const std::string& rope) {
    return parse(minimal("", R"({"vocab_size": 272, "hidden_size": 64, "intermediate_size": 160,
      "num_hidden_layers": 2, "num_attention_heads": 4, "rope_parameters": )" +
                                 rope + "}"))
        .model;
  };
  CHECK(model("null").rope_theta == ModelConfig{}.rope_theta);
  CHECK(model("{}").rope_theta == ModelConfig{}.rope_theta);
  const ModelConfig plain = model(R"({"rope_type": "default", "rope_theta": 12345.0}, "rope_theta": 12345)");
  CHECK(plain.rope_theta == 12345.0);
  CHECK_FALSE(plain.rope_scaling);
  const ModelConfig scaled =
      model(R"({"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16})");
  CHECK(scaled.rope_theta == 10000.0);
  CHECK(scaled.rope_scaling == RopeScaling{8.0, 1.0, 4.0, 16});
}

namespace {

/// A config.json of LLaMA with `more` at its end.
std::string llama(const std::string& more) {
  return R"({"model_type": "llama", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 4)" +
         more + "}";
}

}  // namespace

TEST_CASE("config: a config.json has the defaults of transformers, an object in a run's config its own") {
  const TemporaryDirectory directory;
  const std::string file = directory.write("config.json", llama(""));
  const HuggingFaceConfig from_file = read_hugging_face_config(file);
  const ModelConfig& model = from_file.model;
  CHECK(model.rope_theta == 10000.0);
  CHECK(model.rms_norm_eps == 1e-6);
  CHECK_FALSE(model.tie_word_embeddings);
  CHECK(model.max_position_embeddings == 2048);
  CHECK(model.bos_token_id == 1);
  CHECK(model.eos_token_id == 2);
  REQUIRE(from_file.notes.size() == 1);
  CHECK(from_file.notes[0] ==
        "missing, with transformers' defaults: rms_norm_eps 1e-06, rope_theta 10000.0, tie_word_embeddings false, "
        "max_position_embeddings 2048, bos_token_id 1, eos_token_id 2");

  const Config run = parse(minimal("", "\"" + file + "\""), {"model.block_size=8"});
  CHECK(run.model.rope_theta == 10000.0);
  CHECK(run.model.block_size == 8);
  CHECK(run.model_notes == from_file.notes);
  CHECK(parse(minimal("", llama(""))).model.rope_theta == 10000.0);
  CHECK(parse(config_json(run)) == run);
  CHECK(parse(minimal()).model.rope_theta == 500000.0);
  CHECK(parse(minimal()).model_notes.empty());
  CHECK(usage_error([&] { load_model_config(directory.write("c.json", llama(R"(, "rope_thetta": 5)"))); }) ==
        (directory.path / "c.json: rope_thetta: unknown key; did you mean rope_theta?").string());
}

TEST_CASE("config: every way to write RoPE in a config.json") {
  const TemporaryDirectory directory;
  const auto read = [&](const std::string& more) {
    return load_model_config(directory.write("config.json", llama(more)));
  };
  CHECK(read(R"(, "rope_scaling": {"rope_type": "default", "rope_theta": 5e5})").rope_theta == 5e5);
  CHECK(read(R"(, "rope_scaling": {"type": "default"}, "rope_theta": 5e5)").rope_theta == 5e5);
  CHECK(read(R"(, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 1.0})")
            .rope_theta == 5e5);
  CHECK(read(R"(, "partial_rotary_factor": 1.0)").rope_theta == 1e4);
  const auto fails = [&](const std::string& more, const std::string& message) {
    CHECK_THAT(usage_error([&] { read(more); }), Contains(message));
  };
  fails(R"(, "partial_rotary_factor": 0.5)", "config.json: partial_rotary_factor: found 0.5, expected 1");
  fails(R"(, "rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.25})",
        "config.json: rope_parameters: partial_rotary_factor is 0.25, expected 1");
  fails(R"(, "rope_scaling": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e4)",
        "config.json: rope_scaling: has rope_theta 500000.0, the key of that name 10000.0; expected one of them");
  // transformers 5 takes the positions from the key outside of the object, transformers 4 from the one inside.
  const std::string llama3 = R"({"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                                 "high_freq_factor": 4.0, "original_max_position_embeddings": 16})";
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    const std::string scaled = ", \"" + key + "\": " + llama3 + R"(, "original_max_position_embeddings": )";
    CHECK(read(scaled + "16").rope_scaling == RopeScaling{8.0, 1.0, 4.0, 16});
    CHECK(read(scaled + "null").rope_scaling == RopeScaling{8.0, 1.0, 4.0, 16});
    fails(scaled + "32",
          "config.json: rope_scaling: has original_max_position_embeddings 16, the key of that name 32; expected one "
          "of them, or the same");
  }
  for (const char* kind : {"linear", "dynamic", "yarn", "longrope"})
    fails(std::string(R"(, "rope_scaling": {"factor": 2.0, "rope_type": ")") + kind + "\"}", "expected llama3");
}

TEST_CASE("config: a config.json of another architecture is an error that names the key") {
  const TemporaryDirectory directory;
  const auto fails = [&](const std::string& text, const std::string& message) {
    CHECK(usage_error([&] { load_model_config(directory.write("config.json", text)); }) ==
          (directory.path / "config.json: ").string() + message);
    CHECK_THAT(error_of(minimal("", text)), StartsWith("c.json: model." + message));
  };
  for (const std::string type : {"granite", "smollm3", "gemma2", "qwen3", "mistral", "qwen2", "phi3", "llama4"})
    fails(R"({"model_type": ")" + type + "\"}", "model_type: found \"" + type +
                                                    "\", expected \"llama\" or \"llama-nsa\": no other "
                                                    "architecture is supported");
  fails(R"({"architectures": ["LlamaForSequenceClassification"]})",
        "architectures: found \"LlamaForSequenceClassification\", expected \"LlamaForCausalLM\" or "
        "\"LlamaNSAForCausalLM\"");
  fails(llama(R"(, "architectures": ["LlamaNSAForCausalLM"])"),
        "architectures: found \"LlamaNSAForCausalLM\", expected \"LlamaForCausalLM\" as in model_type llama");
  fails(R"({"model_type": "llama-nsa", "architectures": ["LlamaForCausalLM"]})",
        "architectures: found \"LlamaForCausalLM\", expected \"LlamaNSAForCausalLM\" as in model_type llama-nsa");
  fails(R"({"architectures": ["LlamaForCausalLM", "LlamaNSAForCausalLM"]})",
        "architectures: found \"LlamaNSAForCausalLM\", expected \"LlamaForCausalLM\" as in the first one");
  fails(R"({"architectures": "LlamaForCausalLM"})",
        "architectures: found \"LlamaForCausalLM\", expected a list of names");
  for (const auto& [key, found, expected] :
       std::vector<std::array<std::string, 3>>{{"hidden_act", "\"gelu\"", "\"silu\""},
                                               {"attention_bias", "true", "false"},
                                               {"mlp_bias", "true", "false"},
                                               {"sliding_window", "4096", "null"},
                                               {"embedding_multiplier", "12.0", "1"},
                                               {"residual_multiplier", "0.22", "1"},
                                               {"logits_scaling", "8.0", "1"},
                                               {"attention_multiplier", "0.0078125", "null"},
                                               {"final_logit_softcapping", "30.0", "null"},
                                               {"attn_logit_softcapping", "50.0", "null"},
                                               {"use_qk_norm", "true", "false"},
                                               {"is_causal", "false", "true"},
                                               {"num_local_experts", "8", "0"}})
    fails(llama(", \"" + key + "\": " + found), key + ": found " + found + ", expected " + expected);
  fails(llama(R"(, "no_rope_layers": [1, 0])"), "no_rope_layers: found 0, expected 1 in every layer");
  fails(llama(R"(, "layer_types": ["full_attention", "sliding_attention"])"),
        "layer_types: found \"sliding_attention\", expected \"full_attention\" in every layer");
  fails(llama(R"(, "quantization_config": {"bits": 4})"), "quantization_config: found {\"bits\":4}, expected null");
  // The neutral values are accepted.
  CHECK_NOTHROW(load_model_config(
      directory.write("config.json", llama(R"(, "sliding_window": null, "attention_bias": false, "logits_scaling": 1.0,
        "layer_types": ["full_attention", "full_attention"], "architectures": ["LlamaForCausalLM"],
        "pretraining_tp": 1, "attention_dropout": 0.0)"))));
  CHECK(read_hugging_face_config(directory.write("config.json", llama(R"(, "attention_dropout": 0.1)"))).notes.at(1) ==
        "attention_dropout 0.1 is not applied");
}

TEST_CASE("config: eos_token_id may be a list and bos_token_id null in a config.json") {
  const TemporaryDirectory directory;
  const auto read = [&](const std::string& more) {
    return read_hugging_face_config(directory.write("config.json", llama(more)));
  };
  const HuggingFaceConfig config = read(R"(, "bos_token_id": null, "eos_token_id": [7, 8, 9])");
  CHECK(config.model.eos_token_id == 7);
  CHECK_FALSE(config.model.bos_token_id);
  CHECK(config.notes.at(0) == "eos_token_id: the first of [7,8,9] ends a text; the others are ignored");
  CHECK(read(R"(, "eos_token_id": [7])").notes.size() == 1);
  CHECK_THAT(usage_error([&] { read(R"(, "eos_token_id": [])"); }), EndsWith("found an empty list, expected an id"));
  CHECK_THAT(usage_error([&] { read(R"(, "eos_token_id": null)"); }), Contains("eos_token_id: found null"));
  CHECK_THAT(usage_error([&] { read(R"(, "eos_token_id": [272])"); }), Contains("found 272, expected an id below"));
  const std::string text = hugging_face_config_json(config.model, Method::ssa, BlockSelection::exact, "bfloat16");
  CHECK(load_model_config(directory.write("again.json", text)) == config.model);
}

TEST_CASE("config: the attention method of a config.json is known from the file, or from the published code") {
  const TemporaryDirectory directory;
  const auto read = [&](std::string text) {
    text.replace(text.find("\"llama\""), 7, "\"llama-nsa\"");
    return read_hugging_face_config(directory.write("config.json", text));
  };
  const std::string blocks = R"(, "block_size": 16, "block_counts": 16, "window_size": 0)";
  const HuggingFaceConfig published = read(llama(blocks));
  CHECK_FALSE(published.dense);
  CHECK_FALSE(published.method);
  CHECK_FALSE(published.selection);
  const HuggingFaceConfig exported = read(llama(R"(, "attention_method": "moba", "selection": "reference")"));
  CHECK(exported.method->value == Method::moba);
  CHECK(exported.method->stated);
  CHECK(exported.selection->value == BlockSelection::reference);
  CHECK(read(llama(R"(, "attention_method": "nsa")")).selection->value == BlockSelection::exact);
  CHECK_THAT(usage_error([&] { read(llama(R"(, "attention_method": "dense")")); }),
             EndsWith("attention_method: found \"dense\", expected ssa, full, moba or nsa"));
  for (const char* key : {"block_size", "block_counts", "window_size"}) {
    std::string without = blocks;
    without.replace(without.find(key), std::strlen(key), "unrelated_number_of_things");
    CHECK_THAT(usage_error([&] { read(llama(without)); }), Contains(std::string(key) + ": missing"));
  }
  directory.write("modeling_llama_nsa.py", "not the published file");
  CHECK_FALSE(read(llama(blocks)).method);
  const HuggingFaceConfig dense = read_hugging_face_config(directory.write("config.json", llama("")));
  CHECK(dense.dense);
  CHECK(dense.method->value == Method::full);
  CHECK_FALSE(dense.method->stated);
  // Without a model_type, architectures tells.
  const auto nameless = [&](const std::string& architectures) {
    std::string text = llama(", \"architectures\": " + architectures);
    text.replace(text.find("\"model_type\""), 12, "\"unrelated_key\"");
    return read_hugging_face_config(directory.write("config.json", text));
  };
  CHECK(nameless(R"(["LlamaForCausalLM"])").dense);
  CHECK_THAT(nameless(R"(["LlamaForCausalLM"])").method->reason, EndsWith("has architectures LlamaForCausalLM"));
  CHECK_FALSE(nameless("null").dense);
  CHECK_THAT(usage_error([&] { nameless(R"(["LlamaNSAForCausalLM"])"); }), Contains("block_size: missing"));
}

TEST_CASE("config: a file that is not JSON is named for what it is") {
  const TemporaryDirectory directory;
  CHECK(usage_error([&] { load_model_config(directory.write("config.json", "<!doctype html><p>no")); }) ==
        (directory.path / "config.json: an HTML page, not the file itself (was the download refused?), expected JSON")
            .string());
}

TEST_CASE("config: attention.dense_warmup_steps is for ssa") {
  CHECK(parse(minimal(), {"attention.dense_warmup_steps=5"}).attention.dense_warmup_steps == 5);
  CHECK(error_of(minimal(), {"attention.dense_warmup_steps=5", "attention.method=moba"}) ==
        "--set attention.dense_warmup_steps=5: attention.dense_warmup_steps: found 5, expected 0 with attention.method "
        "moba: only ssa has two outputs");
}

TEST_CASE("config: an exported config.json reads back") {
  const Config c = load_config(ssa::test::source_dir() / "configs/nsa-1b.json");
  const TemporaryDirectory directory;
  const std::string text = hugging_face_config_json(c.model, Method::nsa, BlockSelection::exact, "bfloat16");
  CHECK(load_model_config(directory.write("config.json", text)) == c.model);
  for (const char* line :
       {R"("model_type": "llama-nsa")", R"("attention_method": "nsa")", R"("torch_dtype": "bfloat16")"}) {
    CHECK(text.find(line) != std::string::npos);
  }
}

TEST_CASE("config: train.fp8 and train.fp8_exclude are read, and what they cannot mean is refused") {
  // 4 heads of 16, 2 of keys and values, and 12 gates: the projection has 140 rows.
  constexpr const char* kExclude = R"(, "fp8": "linear", "fp8_exclude": ["qkvg_proj", "layers.1.o_proj"])";
  const Config c = parse(minimal(kExclude));
  CHECK(c.train.fp8 == Fp8Mode::linear);
  CHECK(c.train.fp8_exclude == std::vector<std::string>{"qkvg_proj", "layers.1.o_proj"});
  CHECK(parse(config_json(c)) == c);
  CHECK(parse(minimal(), {"train.fp8=linear", R"(train.fp8_exclude=["qkvg_proj", "layers.1.o_proj"])"}) == c);
  CHECK(parse(minimal()).train.fp8 == Fp8Mode::none);
  CHECK(parse(minimal(R"(, "fp8": "all", "fp8_exclude": ["lm_head", "qkvg_proj"])")).train.fp8 == Fp8Mode::all);
  CHECK(parse(minimal(R"(, "fp8": "all", "fp8_exclude": ["qkvg_proj"])")).train.fp8 == Fp8Mode::all);
  CHECK(parse(minimal(R"(, "fp8": "all", "fp8_exclude": ["layers.0", "layers.1"])")).train.fp8 == Fp8Mode::all);

  const std::string names =
      "expected lm_head, qkvg_proj, o_proj, gate_up_proj, down_proj, layers.N or layers.N.o_proj with N from 0 to 1";
  const auto cases = std::vector<std::pair<std::string, std::string>>{
      {R"(, "fp8": "e4m3")", "train.fp8: found \"e4m3\", expected none, linear or all"},
      {R"(, "fp8": "all", "fp8_exclude": ["lm_head", "layers.0", "layers.1"])",
       "train.fp8_exclude: found every linear layer, expected one that is left, or train.fp8 none"},
      {R"(, "fp8": "linear", "fp8_exclude": "qkvg_proj")",
       "train.fp8_exclude: found \"qkvg_proj\", expected a list of names"},
      {R"(, "fp8": "linear", "fp8_exclude": [1])", "train.fp8_exclude: found [1], expected a list of names"},
      {R"(, "fp8": "linear", "fp8_exclude": ["q_proj"])", "train.fp8_exclude: found \"q_proj\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers.2"])", "train.fp8_exclude: found \"layers.2\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers.0.lm_head"])",
       "train.fp8_exclude: found \"layers.0.lm_head\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers.-1"])", "train.fp8_exclude: found \"layers.-1\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers.-0"])", "train.fp8_exclude: found \"layers.-0\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers.01"])", "train.fp8_exclude: found \"layers.01\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers."])", "train.fp8_exclude: found \"layers.\", " + names},
      {R"(, "fp8": "linear", "fp8_exclude": [""])", "train.fp8_exclude: found \"\", " + names},
      {R"(, "fp8_exclude": ["o_proj"])", "train.fp8_exclude: found 1 names, expected none with train.fp8 none"},
      {R"(, "fp8": "linear", "fp8_exclude": ["layers.0", "layers.1"])",
       "train.fp8_exclude: found every linear layer, expected one that is left, or train.fp8 none"},
  };
  for (const auto& [more, expected] : cases) {
    CAPTURE(more);
    CHECK(error_of(minimal(more)) == "c.json: " + expected);
  }
  CHECK(error_of(minimal(kExclude), {"train.max_length=12"}) ==
        "c.json: train.fp8: a micro-batch has 24 tokens, expected a multiple of 16");
  // Numbers of heads and of token ids may be any.
  CHECK(parse(minimal(R"(, "fp8": "all")"), {"model.vocab_size=257"}).train.fp8_exclude.empty());
  const std::string fp8 = minimal(R"(, "fp8": "all")");
  // All that does not fit is named at once.
  CHECK(error_of(fp8, {"model.hidden_size=72"}) ==
        "c.json: train.fp8: qkvg_proj has 72 inputs, o_proj has 72 outputs, gate_up_proj has 72 inputs, down_proj has "
        "72 outputs, lm_head has 72 inputs, expected multiples of 16, or train.fp8 none");
  CHECK(error_of(fp8, {"model.hidden_size=72", R"(train.fp8_exclude=["layers.0", "layers.1"])"}) ==
        "c.json: train.fp8: lm_head has 72 inputs, expected a multiple of 16, or train.fp8 none");
  CHECK(error_of(fp8, {"model.intermediate_size=100"}) ==
        "c.json: train.fp8: gate_up_proj has 200 outputs, down_proj has 100 inputs, expected multiples of 16; "
        "train.fp8_exclude [\"gate_up_proj\", \"down_proj\"] leaves them out");
  CHECK(error_of(fp8, {"model.intermediate_size=104"}) ==
        "c.json: train.fp8: down_proj has 104 inputs, expected a multiple of 16; train.fp8_exclude [\"down_proj\"] "
        "leaves it out");
}

TEST_CASE("config: docs/config.md's table of keys equals the field lists") {
  const std::string begin = "<!-- config-keys:begin -->\n", end = "<!-- config-keys:end -->";
  const std::string page = read_file(ssa::test::source_dir() / "docs/config.md");
  const std::size_t from = page.find(begin), to = page.find(end);
  REQUIRE(from != std::string::npos);
  REQUIRE(to != std::string::npos);
  const fs::path wanted = ssa::test::binary_dir() / "config-keys.md";
  std::ofstream(wanted) << config_keys_table();
  INFO("the table that docs/config.md needs between its config-keys markers was written to " << wanted);
  CHECK(page.substr(from + begin.size(), to - from - begin.size()) == config_keys_table());
}

TEST_CASE("config: a file that is not at its path is found among the installed configs") {
  const fs::path share = ssa::test::binary_dir().parent_path() / "share" / "ssa-train";
  const std::string name = concat("find_config_test_", ::getpid(), ".json");
  fs::create_directories(share / "configs");
  std::ofstream(share / "configs" / name) << minimal();
  CHECK(fs::equivalent(find_config(name), share / "configs" / name));
  CHECK(fs::equivalent(find_config(fs::path("configs") / name), share / "configs" / name));
  CHECK(load_config(find_config(name)).output_dir == "out");
  const TemporaryDirectory directory;
  const std::string own = directory.write(name, minimal());
  CHECK(find_config(own) == own);
  CHECK(find_config(directory.path / "none.json") == directory.path / "none.json");
  fs::remove(share / "configs" / name);
  CHECK(find_config(name) == name);
}
