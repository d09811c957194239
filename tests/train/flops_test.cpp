// The expected numbers are calculated by hand for configs/ssa-1b.json with sequences of 8192 tokens:
//   a layer's matrices 2048 x (2048 + 2 x 128 + 96) + 2048 x 2048 + 3 x 2048 x 8192 = 59 441 152, 16 layers, and the
//   head 128256 x 2048; attention of one key by 32 heads of 64 is 2 x 2048 = 4096 operations per product, 2 products
//   forward and 5 backward; causal keys 8193 / 2; selected keys (sum of 16 own + 8.5 over own < 16, then 496 x 248.5) /
//   512 = 244.75; complete blocks 255.5 + 1/16; window of 512: (512 x 513 / 2 + 7680 x 512) / 8192 = 496.03125.
#include "ssa/train/flops.h"

#include "ssa/config/config.h"
#include "ssa/train/run_log.h"
#include "support/catch.h"
#include "support/paths.h"

using namespace ssa;

TEST_CASE("flops: parameters, model FLOPs and executed FLOPs per token of ssa-1b") {
  ModelConfig c = load_config((ssa::test::source_dir() / "configs/ssa-1b.json").string(), {}).model;
  c.window_size = 512;
  const auto executed = [&](Method method, GradientCheckpointing mode = GradientCheckpointing::none) {
    return executed_flops_per_token(c, 8192, method, mode);
  };
  CHECK(matmul_parameters(c) == 16 * 59441152LL + 262668288);
  CHECK(model_flops_per_token(c, 8192) == 6 * 1213726720.0 + 1610612736.0);
  CHECK(executed(Method::full) == 7282360320.0 + 16 * (33558528.0 + 83896320.0));
  CHECK(executed(Method::ssa) == 7282360320.0 + 16 * (36610304.0 + 88908800.0));
  CHECK(executed(Method::moba) == 7282360320.0 + 16 * (3051776.0 + 5012480.0));
  CHECK(executed(Method::nsa) == 7282360320.0 + 16 * (9208832.0 + 20405120.0));
  // `full` repeats all products of the forward pass except down_proj's, 2048 x 8192.
  CHECK(executed(Method::ssa, GradientCheckpointing::selective) == executed(Method::ssa));
  CHECK(executed(Method::ssa, GradientCheckpointing::full) ==
        executed(Method::ssa) + 16 * (2 * 42663936.0 + 36610304.0));

  c.tie_word_embeddings = false;
  CHECK(matmul_parameters(c) == 1213726720);
}

TEST_CASE("flops: sequences that end inside a block, and with fewer blocks than block_counts") {
  // Blocks of 4, one selected: tokens 0 to 5 attend to 1, 2, 3, 4, 1, 2 keys and have 0, 0, 0, 1, 1, 1 complete
  // blocks.
  ModelConfig c;
  c.vocab_size = 8;
  c.hidden_size = 4;
  c.intermediate_size = 2;
  c.num_hidden_layers = c.num_attention_heads = c.num_key_value_heads = 1;
  c.head_dim = 2;
  c.block_size = 4;
  c.block_counts = 1;
  const double matrices = 6 * (4 * (2 + 2 + 2 + 3) + 4 * 2 + 3 * 4 * 2 + 8 * 4);
  const double flops = executed_flops_per_token(c, 6, Method::moba, GradientCheckpointing::none);
  CHECK_THAT(flops, Catch::Matchers::WithinRel(matrices + 4 * (7 * 13.0 / 6 + 0.5), 1e-14));
  // With block_counts 8 both blocks are selected: 1, 2, 3, 4, 5, 6 keys.
  c.block_counts = 8;
  const double all = executed_flops_per_token(c, 6, Method::moba, GradientCheckpointing::none);
  CHECK_THAT(all, Catch::Matchers::WithinRel(matrices + 4 * (7 * 21.0 / 6 + 0.5), 1e-14));
}

TEST_CASE("flops: the peak of a GPU by its name, none for an unknown one") {
  CHECK(peak_bf16_flops("NVIDIA H200").value() == 989.4e12);
  CHECK(peak_bf16_flops("NVIDIA H100 80GB HBM3").value() == 989.4e12);
  CHECK(peak_bf16_flops("NVIDIA H100 PCIe").value() == 756e12);
  CHECK(!peak_bf16_flops("NVIDIA GeForce RTX 4090"));
}

TEST_CASE("flops: the crossover length of sparse attention, and the warning below it") {
  Config config = load_config((ssa::test::source_dir() / "configs/moba-1b.json").string(), {});
  ModelConfig& m = config.model;
  m.window_size = 512;
  CHECK(sparse_crossover_tokens(m, Method::moba) == 1701);
  CHECK(sparse_crossover_tokens(m, Method::nsa) == 4257);
  m.block_size = 32;
  CHECK(sparse_crossover_tokens(m, Method::moba) == 2 * 1701);
  m.block_counts = 8;
  CHECK(sparse_crossover_tokens(m, Method::moba) == 1701);
  CHECK(!sparse_crossover_tokens(m, Method::full));
  CHECK(!sparse_crossover_tokens(m, Method::ssa));

  const auto warning = [&](Method method, std::int64_t max_length) {
    config.attention.method = method;
    config.train.max_length = max_length;
    return short_rows_warning(config);
  };
  CHECK(warning(Method::moba, 1700) ==
        "train.max_length 1700 is short for attention.method moba: it trains slower than full attention in rows of "
        "less than about 1701 tokens, with 256 selected keys (model.block_size 32 x model.block_counts 8); a rule "
        "measured on one H200");
  CHECK(warning(Method::moba, 1701).empty());
  CHECK(warning(Method::nsa, 4256) ==
        "train.max_length 4256 is short for attention.method nsa: it trains slower than full attention in rows of "
        "less than about 4257 tokens, with 256 selected keys (model.block_size 32 x model.block_counts 8) and "
        "model.window_size 512; a rule measured on one H200");
  CHECK(warning(Method::nsa, 4257).empty());
  CHECK(warning(Method::full, 64).empty());
  CHECK(warning(Method::ssa, 64).empty());
}
