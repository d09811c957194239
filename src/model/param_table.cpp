#include "ssa/model/param_table.h"

#include <algorithm>

#include "ssa/base/random.h"

namespace ssa {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";

}  // namespace

ParamTable::ParamTable(const ModelConfig& c, int shards) : shards_(shards) {
  const std::int64_t H = c.hidden_size, F = c.intermediate_size;
  const auto add = [&](const std::string& name, Shape shape, bool decay) {
    index_.emplace(name, params_.size());
    params_.push_back({name, shape, size_, decay});
    size_ += shape.count();
  };
  const auto align_to = [&](std::int64_t unit) { size_ = (size_ + unit - 1) / unit * unit; };
  const auto align = [&] { align_to(kAlignment); };
  const auto close_bucket = [&] {
    align_to(kAlignment * shards_);
    const std::int64_t begin = buckets_.empty() ? 0 : buckets_.back().range.end;
    if (size_ > begin) buckets_.push_back({{begin, size_}, params_.back().decay});
  };
  const auto layer = [](std::int64_t i) { return "model.layers." + std::to_string(i) + "."; };

  add(kEmbedding, {c.vocab_size, H}, true);
  close_bucket();
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string attention = layer(i) + "self_attn.", mlp = layer(i) + "mlp.";
    add(attention + "q_proj.weight", {c.q_width(), H}, true);
    add(attention + "k_proj.weight", {c.kv_width(), H}, true);
    add(attention + "v_proj.weight", {c.kv_width(), H}, true);
    add(attention + "g_proj.weight", {3 * c.num_attention_heads, H}, true);
    align();
    add(attention + "o_proj.weight", {H, c.q_width()}, true);
    align();
    add(mlp + "gate_proj.weight", {F, H}, true);
    add(mlp + "up_proj.weight", {F, H}, true);
    align();
    add(mlp + "down_proj.weight", {H, F}, true);
    close_bucket();
  }
  if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, H}, true);
  close_bucket();
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    add(layer(i) + "input_layernorm.weight", {H}, false);
    align();
    add(layer(i) + "post_attention_layernorm.weight", {H}, false);
    align();
  }
  add("model.norm.weight", {H}, false);
  close_bucket();
}

Range ParamTable::slice(const Bucket& bucket, int shard) const {
  const std::int64_t each = bucket.range.count() / shards_;
  return {bucket.range.begin + shard * each, bucket.range.begin + (shard + 1) * each};
}

std::int64_t ParamTable::parameter_count() const {
  std::int64_t count = 0;
  for (const Param& p : params_) count += p.count();
  return count;
}

const Param& ParamTable::find(const std::string& name) const {
  const auto it = index_.find(name);
  SSA_CHECK(it != index_.end(), "no parameter ", name);
  return params_[it->second];
}

Tensor ParamTable::view(const Tensor& flat, const Param& p) const {
  return flat.rows(p.offset, p.offset + p.count()).view(p.shape);
}

std::size_t ParamTable::bucket_of(const Param& p) const {
  const auto it = std::ranges::find_if(buckets_, [&](const Bucket& bucket) { return p.offset < bucket.range.end; });
  return static_cast<std::size_t>(it - buckets_.begin());
}

BucketOrder::BucketOrder(const ModelConfig& c)
    : embedding(0),
      first_layer(1),
      head(c.tie_word_embeddings ? embedding : layer(c.num_hidden_layers)),
      norms(layer(c.num_hidden_layers) + (c.tie_word_embeddings ? 0 : 1)) {}

std::vector<std::size_t> BucketOrder::forward() const {
  std::vector<std::size_t> order = {norms, embedding};
  for (std::size_t bucket = first_layer; bucket < norms; ++bucket) order.push_back(bucket);  // an untied head is last
  return order;
}

std::vector<Tensor> split_by_bucket(const ParamTable& table, const Tensor& flat) {
  std::vector<Tensor> parts;
  for (const Bucket& bucket : table.buckets()) parts.push_back(flat.rows(bucket.range.begin, bucket.range.end));
  return parts;
}

Range range_of(const ParamTable& table, const ModelConfig& config, std::int64_t i, LinearLayer which) {
  const auto first = [&]() -> const char* {
    switch (which) {
      case LinearLayer::qkvg_proj: return "self_attn.q_proj";
      case LinearLayer::o_proj: return "self_attn.o_proj";
      case LinearLayer::gate_up_proj: return "mlp.gate_proj";
      case LinearLayer::down_proj: return "mlp.down_proj";
    }
    fail("unknown linear layer");
  };
  const std::int64_t begin = table.find(concat("model.layers.", i, ".", first(), ".weight")).offset;
  const auto [inputs, outputs] = widths_of(which, config);
  return {begin, begin + inputs * outputs};
}

ModelParams bind_params(const ParamTable& table, const ModelConfig& c, const std::vector<Tensor>& buckets) {
  const std::int64_t H = c.hidden_size;
  const auto view = [&](const std::string& first, Shape shape) {
    const Param& param = table.find(first);
    const std::size_t bucket = table.bucket_of(param);
    const std::int64_t begin = param.offset - table.buckets()[bucket].range.begin;
    return buckets[bucket].rows(begin, begin + shape.count()).view(shape);
  };
  const auto matrix = [&](std::int64_t i, LinearLayer which) {
    const std::size_t bucket = BucketOrder(c).layer(i);
    const Range range = range_of(table, c, i, which);
    const std::int64_t before = table.buckets()[bucket].range.begin;
    const auto [inputs, outputs] = widths_of(which, c);
    return buckets[bucket].rows(range.begin - before, range.end - before).view({outputs, inputs});
  };
  ModelParams params;
  params.embedding = view(kEmbedding, {c.vocab_size, H});
  params.lm_head = c.tie_word_embeddings ? params.embedding : view("lm_head.weight", {c.vocab_size, H});
  params.final_norm = view("model.norm.weight", {H});
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    params.layers.push_back({.input_norm = view(layer + "input_layernorm.weight", {H}),
                             .qkvg_proj = matrix(i, LinearLayer::qkvg_proj),
                             .o_proj = matrix(i, LinearLayer::o_proj),
                             .post_attention_norm = view(layer + "post_attention_layernorm.weight", {H}),
                             .gate_up_proj = matrix(i, LinearLayer::gate_up_proj),
                             .down_proj = matrix(i, LinearLayer::down_proj)});
  }
  return params;
}

ModelParams bind_params(const ParamTable& table, const ModelConfig& config, const Tensor& flat) {
  return bind_params(table, config, split_by_bucket(table, flat));
}

std::vector<Tensor> added_gradients(const ParamTable& table, const ModelConfig& c, const std::vector<Tensor>& buckets) {
  std::vector<Tensor> gaps;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    if (!buckets[i]) continue;
    const Range bucket = table.buckets()[i].range;
    std::int64_t end = bucket.begin;  // of the last gradient that a product overwrites
    const auto close_gap = [&](std::int64_t begin) {
      if (begin > end) gaps.push_back(buckets[i].rows(end - bucket.begin, begin - bucket.begin));
    };
    for (const Param& p : table.params()) {
      const bool looked_up_only = p.name == kEmbedding && !c.tie_word_embeddings;
      if (p.offset < bucket.begin || p.offset >= bucket.end || !p.decay || looked_up_only) continue;
      close_gap(p.offset);
      end = p.offset + p.count();
    }
    close_gap(bucket.end);
  }
  return gaps;
}

std::vector<const Param*> backward_order(const ParamTable& table, const ModelConfig& config) {
  std::vector<const Param*> order;
  const auto add = [&](const std::string& name) { order.push_back(&table.find(name)); };
  add("model.norm.weight");
  if (!config.tie_word_embeddings) add("lm_head.weight");
  for (std::int64_t i = config.num_hidden_layers - 1; i >= 0; --i)
    for (const char* name :
         {"mlp.down_proj", "mlp.up_proj", "mlp.gate_proj", "post_attention_layernorm", "self_attn.o_proj",
          "self_attn.g_proj", "self_attn.v_proj", "self_attn.k_proj", "self_attn.q_proj", "input_layernorm"})
      add(concat("model.layers.", i, ".", name, ".weight"));
  add(kEmbedding);
  return order;
}

void initialize_param(const ParamTable& table, const ModelConfig& config, std::size_t index, std::uint64_t seed,
                      std::span<float> out, std::int64_t first) {
  if (!table.params()[index].decay) {
    std::fill(out.begin(), out.end(), 1.0f);
    return;
  }
  const auto count = static_cast<std::int64_t>(out.size());
#pragma omp parallel for
  for (std::int64_t i = 0; i < count; ++i) {
    const double normal = random_normal(seed, RandomPurpose::init, index, static_cast<std::uint64_t>(first + i));
    out[static_cast<std::size_t>(i)] = static_cast<float>(config.initializer_range * normal);
  }
}

}  // namespace ssa
