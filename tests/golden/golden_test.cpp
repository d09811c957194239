// Golden cases: losses, norms and gradients computed by an independent reference implementation, in float64 where
// possible. tests/golden/cases/* have config.json, data/, model/, expected.jsonl of 8 steps, and in part
// gradients.safetensors of the first step. The cases named head64-* have a shape that the CUDA kernels support.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/attention/cuda_support.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/row_loader.h"
#include "ssa/io/huggingface.h"
#include "ssa/train/batch_staging.h"
#include "ssa/train/schedule.h"
#include "ssa/train/train.h"
#include "support/catch.h"
#include "support/paths.h"
#include "support/skip.h"
#include "support/temp_dir.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::test;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kCases = ssa::test::source_dir() / "tests/golden/cases";

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kCases)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  REQUIRE(names.size() >= 15);
  return names;
}

Config load_case(const std::string& name, const fs::path& output_dir, std::vector<std::string> overrides = {}) {
  const fs::path directory = kCases / name;
  for (const std::string& path :
       {"model=" + (directory / "model/config.json").string(), "init_from=" + (directory / "model").string(),
        "data.path=" + (directory / "data").string(), "output_dir=" + output_dir.string()})
    overrides.push_back(path);
  overrides.push_back("checkpoint.save_steps=0");
  return load_config(directory / "config.json", overrides);
}

std::vector<json> read_lines(const fs::path& file) {
  std::vector<json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

/// Trains a case to its end and returns the lines of metrics.jsonl.
std::vector<json> train_case(const std::string& name, DeviceKind device,
                             const std::vector<std::string>& overrides = {}) {
  const TempDir output;
  SingleComm comm;
  const Config config = load_case(name, output.path(), overrides);
  REQUIRE(train(config, {.resume = "none", .device = device}, comm) == kExitDone);
  return read_lines(output / "metrics.jsonl");
}

/// Allowed relative errors.
struct Tolerances {
  double loss;       ///< of loss and ce_loss
  double alignment;  ///< of alignment_loss
  double norm;       ///< of grad_norm
  double drift;      ///< of ce_loss, with its sign, over the second half of the steps
};

void check_steps(const std::string& name, DeviceKind device, const Tolerances& tolerances) {
  const auto expected = read_lines(kCases / name / "expected.jsonl");
  const auto got = train_case(name, device);
  INFO(name);
  REQUIRE(expected.size() == 8);
  REQUIRE(got.size() == expected.size());
  double drift = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i].at("step") == expected[i].at("step"));
    for (const auto& [key, tolerance] : {std::pair{"loss", tolerances.loss},
                                         {"ce_loss", tolerances.loss},
                                         {"alignment_loss", tolerances.alignment},
                                         {"grad_norm", tolerances.norm},
                                         {"learning_rate", 1e-12}}) {
      const double want = expected[i].at(key), have = got[i].at(key);
      INFO("step " << i + 1 << ", " << key << ": " << have << ", expected " << want);
      CHECK(std::abs(have - want) <= tolerance * std::abs(want));
    }
    const double want = expected[i].at("ce_loss"), have = got[i].at("ce_loss");
    if (2 * i >= got.size()) drift += (have - want) / want / (static_cast<double>(got.size()) / 2);
  }
  INFO("mean error of ce_loss in steps 5 to 8: " << drift);
  CHECK(std::abs(drift) <= tolerances.drift);
}

/// The gradients of a case's first step, computed as the trainer does.
std::vector<float> first_gradients(const Config& config, TestModel& m) {
  const Dataset dataset(config.data.path.value());
  const RowLoader loader(dataset, {.max_length = config.train.max_length,
                                   .packing = config.data.packing,
                                   .mask_block_size = config.data.document_mask ? config.model.block_size : 0,
                                   .shuffle = config.data.shuffle,
                                   .pad_id = static_cast<std::int32_t>(config.model.eos_token_id),
                                   .vocab_size = config.model.vocab_size});
  const std::int64_t rows = config.train.per_device_train_batch_size;
  const BatchPlan plan(
      {.sources = {{loader.rows()}}, .global_rows = batch_sizes(config.train, 1), .micro_rows = rows, .ranks = 1});
  const GlobalBatch batch = plan.batch_at({});
  const auto parameters = published_parameters(config.model);
  const HuggingFaceWeights weights(*config.init_from, config.model);
  load_master_weights(m.stream, m.state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    weights.read(parameters[i], out, first);
  });

  std::int64_t labels = 0;
  for (std::int64_t i = 0; i < plan.global_rows(); ++i) labels += loader.label_count(0, i);
  const double elements = static_cast<double>(plan.global_rows() * config.train.max_length * config.model.q_width()) *
                          static_cast<double>(config.model.num_hidden_layers);
  const PassScales scales{.alignment = 1 / elements,
                          .ce_gradient = static_cast<float>(1.0 / static_cast<double>(labels)),
                          .alignment_gradient = static_cast<float>(config.attention.alignment_weight / elements)};
  // Every case passes on the same output throughout.
  const bool full_stream = config.attention.full_stream_probability == 1;
  REQUIRE((full_stream || config.attention.full_stream_probability == 0));
  BatchStaging staging(m.stream, rows, config.train.max_length);
  m.poison_gradients();
  m.state.sums.clear(m.stream);
  for (std::int64_t micro = 0; micro < plan.micro_batches(); ++micro) {
    for (std::int64_t i = 0; i < rows; ++i)
      staging.fill(i, loader, 0, plan.micro_batch(batch, micro, 0)[static_cast<std::size_t>(i)].row, full_stream);
    staging.upload(m.state.batch);
    forward_backward(m.stream, m.state.model(), m.state.batch, scales, m.state.sums.losses(),
                     micro == 0 ? Gradients::overwrite : Gradients::add);
  }
  return m.read<float>(m.state.gradients);
}

}  // namespace

TEST_CASE("golden: losses, gradient norms and learning rates of 8 steps agree with the reference") {
  // float32 against float32 and float64 with another order of summation, after up to 7 updates.
  for (const std::string& name : case_names())
    check_steps(name, DeviceKind::cpu, {.loss = 1e-4, .alignment = 1e-4, .norm = 1e-4, .drift = 1e-4});
}

TEST_CASE("golden: losses, gradient norms and learning rates of 8 steps on CUDA agree with the reference") {
  if (skip_without_gpu()) return;
  std::size_t supported = 0;
  for (const std::string& name : case_names()) {
    const TempDir unused;
    const ModelConfig model = load_case(name, unused.path()).model;
    if (!why_unsupported(model.head_dim, model.group(), model.block_size).empty()) continue;
    ++supported;
    // bf16 weights and activations: 8 bits, through two layers and 8 steps. The same rounding in the reference
    // implementation changes ce_loss by up to 7e-4 and the norm by 2e-2, in both directions. The alignment loss is
    // small and depends on the selection: a near tie decided differently changes it by up to 2e-2.
    check_steps(name, DeviceKind::cuda, {.loss = 2e-2, .alignment = 5e-2, .norm = 5e-2, .drift = 2e-3});
  }
  CHECK(supported >= 5);
}

TEST_CASE("golden: every parameter's gradient of the first step agrees with the reference") {
  std::size_t compared = 0;
  for (const std::string& name : case_names()) {
    if (!fs::exists(kCases / name / "gradients.safetensors")) continue;
    ++compared;
    const TempDir unused;
    const Config config = load_case(name, unused.path());
    TestModel m(config.model,
                {.rows = config.train.per_device_train_batch_size,
                 .tokens = config.train.max_length,
                 .path = training_path(config.attention.method),
                 .document_mask = config.data.document_mask},
                config.attention.selection);
    const std::vector<float> gradients = first_gradients(config, m);
    const SafetensorsReader expected(kCases / name / "gradients.safetensors");
    CHECK(expected.tensors().size() == m.table.params().size());
    for (const Param& param : m.table.params()) {
      std::vector<float> want(static_cast<std::size_t>(param.count()));
      expected.read(expected.at(param.name, dims_of(param.shape)), want);
      double difference = 0, norm = 0;
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double have = gradients[static_cast<std::size_t>(param.offset) + i];
        difference += (have - want[i]) * (have - want[i]);
        norm += static_cast<double>(want[i]) * want[i];
      }
      INFO(name << ", " << param.name << ": " << std::sqrt(difference) << " of " << std::sqrt(norm));
      CHECK(norm > 0);
      CHECK(std::sqrt(difference) <= 1e-4 * std::sqrt(norm));
    }
  }
  CHECK(compared >= 12);
}

TEST_CASE("golden: stream_granularity row and step train alike with full_stream_probability 0 or 1") {
  for (const char* name : {"ssa-sparse-stream", "ssa-full-stream"}) {
    const auto by_step = train_case(name, DeviceKind::cpu);
    const auto by_row = train_case(name, DeviceKind::cpu, {"attention.stream_granularity=row"});
    REQUIRE(by_row.size() == by_step.size());
    for (std::size_t i = 0; i < by_step.size(); ++i) {
      CHECK(by_row[i].at("stream") == "mixed");
      for (const char* key : {"loss", "ce_loss", "alignment_loss", "grad_norm"}) {
        INFO(name << ", step " << i + 1 << ", " << key);
        CHECK(by_row[i].at(key) == by_step[i].at(key));
      }
    }
  }
}

TEST_CASE("golden: with one aligned output the alignment loss has one of its two equal terms") {
  const std::string name = "ssa-sparse-stream";
  const auto both = train_case(name, DeviceKind::cpu);
  for (const char* output : {"full", "sparse"}) {
    INFO(output);
    const auto one = train_case(name, DeviceKind::cpu, {std::string("attention.aligned_outputs=") + output});
    REQUIRE(one.size() == both.size());
    // The weights of the first step are the same, those of later steps are not.
    CHECK(one[0].at("ce_loss") == both[0].at("ce_loss"));
    const double term = one[0].at("alignment_loss"), sum = both[0].at("alignment_loss");
    CHECK(std::abs(2 * term - sum) < 1e-12 * sum);  // the same sum, scaled in f64
    CHECK(one[0].at("grad_norm") != both[0].at("grad_norm"));
    CHECK(one.back().at("ce_loss") != both.back().at("ce_loss"));
  }
}

TEST_CASE("golden: gradient checkpointing trains to the same bits") {
  const std::string name = "ssa-sparse-stream";
  const auto kept = train_case(name, DeviceKind::cpu);
  for (const char* mode : {"selective", "full"}) {
    const auto again = train_case(name, DeviceKind::cpu, {std::string("train.gradient_checkpointing=") + mode});
    REQUIRE(again.size() == kept.size());
    for (std::size_t i = 0; i < kept.size(); ++i)
      for (const char* key : {"loss", "ce_loss", "alignment_loss", "grad_norm"}) {
        INFO(mode << ", step " << i + 1 << ", " << key);
        CHECK(again[i].at(key) == kept[i].at(key));
      }
  }
}
