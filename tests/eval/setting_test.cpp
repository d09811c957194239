#include "ssa/eval/setting.h"

#include "eval/byte_model.h"
#include "support/error_of.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

std::vector<std::string> names(const ByteModel& model, const Overrides& overrides) {
  std::vector<std::string> result;
  for (const Setting& setting : settings_of(model.source(), overrides)) result.push_back(setting.name());
  return result;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("mode and budgets determine the settings") {
  for (const char* method : {"ssa", "full", "moba"}) {
    const ByteModel model(272, 256, method);
    CHECK(names(model, {}) == Names{"sparse 3x4", "full"});
    CHECK(names(model, {.mode = "sparse", .block_counts = {1, 8}, .block_size = 8}) ==
          Names{"sparse 1x8", "sparse 8x8"});
    CHECK(names(model, {.mode = "full", .block_counts = {1, 8}}) == Names{"full"});
  }
  const ByteModel nsa(272, 256, "nsa");
  CHECK(names(nsa, {}) == Names{"sparse 3x4"});
  CHECK(settings_of(nsa.source(), {})[0].path == AttentionPath::nsa);
  check_error(error_of([&] { settings_of(nsa.source(), {.mode = "full"}); }), "--mode full", "nsa", "--mode sparse");
  check_error(error_of([&] { settings_of(nsa.source(), {.mode = "dense"}); }), "--mode dense", "sparse, full or both");
}

TEST_CASE("blocks of one token with the reference selection are an error") {
  const ByteModel model;
  nlohmann::json config = nlohmann::json::parse(ssa::read_file(model.path() / "config.json"));
  config["selection"] = "reference";
  ssa::test::write_file(model.path() / "config.json", config.dump());
  check_error(error_of([&] { settings_of(ModelSource(model.path()), {.block_size = 1}); }),
              "--block-size 1: blocks of 1 token with selection reference, expected at least 2");
  CHECK(settings_of(ModelSource(model.path()), {.block_size = 2}).size() == 2);
  config["block_size"] = 1;
  ssa::test::write_file(model.path() / "config.json", config.dump());
  check_error(error_of([&] { settings_of(ModelSource(model.path()), {}); }), model.path().string(),
              "blocks of 1 token with selection reference");
  CHECK(settings_of(ModelSource(model.path()), {.mode = "full"}).size() == 1);
}

TEST_CASE("a RoPE scaling factor replaces the model's own") {
  const ByteModel model;
  const ModelConfig scaled = settings_of(model.source(), {.rope_scaling = 4})[0].model;
  REQUIRE(scaled.rope_scaling.has_value());
  CHECK(*scaled.rope_scaling ==
        RopeScaling{.factor = 4, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 64});
  CHECK(scaled.max_position_embeddings == 256);
  CHECK_FALSE(settings_of(model.source(), {})[0].model.rope_scaling.has_value());
  const ModelConfig shorter = settings_of(model.source(), {.rope_scaling = 4, .original_positions = 16})[0].model;
  CHECK(shorter.rope_scaling->original_max_position_embeddings == 16);
  CHECK(shorter.max_position_embeddings == 64);
  check_error(error_of([&] { settings_of(model.source(), {.rope_scaling = 1e300}); }),
              "--rope-scaling 1e+300: 6.4e+301 positions, expected at most 1e+09");

  nlohmann::json config = nlohmann::json::parse(ssa::read_file(model.path() / "config.json"));
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 2.0},
                            {"high_freq_factor", 6.0},
                            {"original_max_position_embeddings", 32}};
  ssa::test::write_file(model.path() / "config.json", config.dump());
  const ModelConfig again = settings_of(ModelSource(model.path()), {.rope_scaling = 3})[0].model;
  CHECK(*again.rope_scaling ==
        RopeScaling{.factor = 3, .low_freq_factor = 2, .high_freq_factor = 6, .original_max_position_embeddings = 32});
  CHECK(again.max_position_embeddings == 96);
}
