#include "ssa/io/huggingface.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/temp_dir.h"

namespace fs = std::filesystem;
using namespace ssa;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

namespace {

ModelConfig small_model(bool tied) {
  ModelConfig m;
  m.vocab_size = 19;
  m.hidden_size = 12;
  m.intermediate_size = 20;
  m.num_hidden_layers = 2;
  m.num_attention_heads = 3;
  m.num_key_value_heads = 1;
  m.head_dim = 4;
  m.tie_word_embeddings = tied;
  m.bos_token_id = 17;
  m.eos_token_id = 18;
  m.block_size = 4;
  m.block_counts = 3;
  m.rope_scaling = RopeScaling{.factor = 32.0};
  return m;
}

/// Small integers: exact in every dtype of at least 8 significant bits.
std::vector<float> values_of(const TensorSpec& tensor, std::size_t which) {
  std::vector<float> values(static_cast<std::size_t>(count_of(tensor.shape)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i + 7 * which) % 129) - 64;
  return values;
}

void write_directory(const fs::path& directory, const ModelConfig& model, FileDType dtype,
                     std::uint64_t max_shard_bytes) {
  const auto tensors = published_parameters(model, dtype);
  HuggingFaceWriter writer(
      directory, {{"config.json", hugging_face_config_json(model, Method::moba, BlockSelection::exact, "bfloat16")}},
      tensors, max_shard_bytes);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto values = values_of(tensors[i], i);
    writer.append(tensors[i].name, std::span(values).first(3));
    writer.append(tensors[i].name, std::span(values).subspan(3));
  }
  writer.finish();
}

bool holds_all(const HuggingFaceWeights& weights, const std::vector<TensorSpec>& tensors) {
  bool same = true;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto values = values_of(tensors[i], i);
    std::vector<float> got(values.size()), part(2);
    weights.read(tensors[i], got);
    weights.read(tensors[i], part, 5);
    same = same && got == values && part == std::vector<float>{values[5], values[6]};
  }
  return same;
}

/// Writes model.safetensors of zeros.
void write_zeros(const fs::path& directory, const std::vector<TensorSpec>& tensors) {
  SafetensorsWriter writer(directory / "model.safetensors", tensors);
  for (const TensorSpec& t : tensors)
    writer.append(t.name, std::vector<float>(static_cast<std::size_t>(count_of(t.shape))));
  writer.finish();
}

}  // namespace

TEST_CASE("huggingface: a directory reads back as written, whole and sharded, f32 and bf16, tied and untied") {
  const bool tied = GENERATE(true, false);
  const FileDType dtype = GENERATE(FileDType::f32, FileDType::bf16);
  const std::uint64_t max_shard_bytes = GENERATE(std::uint64_t{1} << 30, std::uint64_t{1000}, std::uint64_t{1});
  CAPTURE(tied, name_of(dtype), max_shard_bytes);
  const TempDir dir;
  const ModelConfig model = small_model(tied);
  write_directory(dir.path() / "new" / "model", model, dtype, max_shard_bytes);
  const fs::path directory = dir.path() / "new" / "model";
  const auto tensors = published_parameters(model);
  const HuggingFaceWeights weights(directory, model);
  CHECK(holds_all(weights, tensors));
  CHECK(load_model_config(directory / "config.json") == model);
  CHECK((max_shard_bytes > 1000) == fs::exists(directory / "model.safetensors"));
  if (max_shard_bytes == 1) CHECK(weights.shards().size() == tensors.size());
  for (const SafetensorsReader& shard : weights.shards()) {
    std::uint64_t bytes = 0;
    for (const auto& entry : shard.tensors()) bytes += entry.bytes();
    CHECK((bytes <= max_shard_bytes || shard.tensors().size() == 1));
  }
  CHECK(!fs::exists(dir.path() / "new" / "model.tmp"));
}

TEST_CASE("huggingface: config.json has the keys that transformers needs") {
  const auto json = nlohmann::json::parse(
      hugging_face_config_json(small_model(true), Method::ssa, BlockSelection::reference, "bfloat16"));
  CHECK(json.at("model_type") == "llama-nsa");
  CHECK(json.at("architectures") == nlohmann::json{"LlamaNSAForCausalLM"});
  CHECK(json.at("attention_method") == "ssa");
  CHECK(json.at("inference_mode") == "sparse");
  CHECK(json.at("selection") == "reference");
  CHECK(json.at("hidden_act") == "silu");
  CHECK(json.at("attention_bias") == false);
  CHECK(json.at("mlp_bias") == false);
  CHECK(json.at("torch_dtype") == "bfloat16");
  CHECK(json.at("rope_scaling").at("rope_type") == "llama3");
  CHECK(json.at("rope_scaling").at("factor") == 32.0);
  const auto mode_of = [](Method method) {
    return nlohmann::json::parse(
        hugging_face_config_json(small_model(true), method, BlockSelection::exact, "float32"))["inference_mode"];
  };
  CHECK(mode_of(Method::full) == "full");
  CHECK(mode_of(Method::moba) == "sparse");
  CHECK(mode_of(Method::nsa) == "sparse");

  // Each class of the auto_map is in a file that is written next to it.
  for (const char* name : {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}) {
    const std::string where = json.at("auto_map").at(name);
    const std::string file = where.substr(0, where.find('.')) + ".py", type = where.substr(where.find('.') + 1);
    INFO(where);
    bool found = false;
    for (const TextFile& code : hugging_face_model_code())
      found = found || (code.name == file && code.text.find("class " + type + "(") != std::string::npos);
    CHECK(found);
  }
  for (const TextFile& code : hugging_face_model_code())
    CHECK(code.text == read_file(ssa::test::source_dir() / "src" / "io" / "hf_model" / code.name));
}

TEST_CASE("huggingface: a missing, misshapen or unexpected tensor is named") {
  const TempDir dir;
  const auto expected = published_parameters(small_model(true));
  const auto open = [&] { HuggingFaceWeights weights(dir.path(), small_model(true)); };
  check_error(error_of(open), dir.path().string(), "neither model.safetensors nor model.safetensors.index.json");

  auto tensors = expected;
  tensors.push_back({"model.layers.1.self_attn.rotary_emb.inv_freq", {2}});
  tensors.push_back({"lm_head.weight", {19, 12}});
  write_zeros(dir.path(), tensors);
  CHECK(error_of(open).empty());
  tensors.push_back({"model.layers.2.input_layernorm.weight", {12}});
  write_zeros(dir.path(), tensors);
  check_error(error_of(open), "model.safetensors", "unexpected tensor model.layers.2.input_layernorm.weight [12]");
  tensors = expected;
  tensors[3].shape = {19, 12};
  write_zeros(dir.path(), tensors);
  check_error(error_of(open), "model.safetensors",
              tensors[3].name + " is [19, 12], expected " + to_string(expected[3].shape));
  tensors = expected;
  tensors.erase(tensors.begin() + 4);
  write_zeros(dir.path(), tensors);
  check_error(error_of(open), "model.safetensors",
              expected[4].name + " is missing, expected " + to_string(expected[4].shape));
}

TEST_CASE("huggingface: an index that does not match its shards is an error") {
  const TempDir dir;
  write_directory(dir.path() / "m", small_model(true), FileDType::f32, 1000);
  const fs::path index = dir.path() / "m" / "model.safetensors.index.json";
  const auto good = nlohmann::json::parse(read_file(index));
  const auto tensor = "model.norm.weight";
  const auto error_with = [&](const nlohmann::json& root) {
    replace_file(index, root.dump());
    return error_of([&] { HuggingFaceWeights weights(dir.path() / "m"); });
  };
  CHECK(error_with(good).empty());
  auto bad = good;
  bad["weight_map"][tensor] = good["weight_map"]["model.embed_tokens.weight"];
  check_error(error_with(bad), "model-00001-of-", "tensor model.norm.weight is missing");
  bad["weight_map"].erase(tensor);
  check_error(error_with(bad), "tensor model.norm.weight is not listed for this file in model.safetensors.index.json");
  bad["weight_map"][tensor] = "../m/model.safetensors";
  check_error(error_with(bad), "index.json: weight_map of model.norm.weight", "expected a file of the same directory");
  bad["weight_map"][tensor] = 3;
  check_error(error_with(bad), "index.json: weight_map of model.norm.weight is 3");
  bad["weight_map"][tensor] = "model-00009-of-00009.safetensors";
  check_error(error_with(bad), "model-00009-of-00009.safetensors", "No such file");
  check_error(error_with(nlohmann::json::array()), "index.json: JSON array, expected a JSON object");
}

TEST_CASE("huggingface: a directory with files is not changed, and a failed export leaves no files") {
  const TempDir dir;
  const auto tensors = published_parameters(small_model(true));
  fs::create_directory(dir.path() / "taken");
  replace_file(dir.path() / "taken" / "model.safetensors", "precious");
  check_error(
      error_of([&] { write_directory(dir.path() / "taken", small_model(true), FileDType::f32, kMaxShardBytes); }),
      "taken: exists, expected a new or an empty directory");
  check_error(error_of([&] {
                HuggingFaceWriter writer(dir.path() / "half", {}, tensors);
                writer.finish();
              }),
              "half.tmp/model.safetensors: tensor model.embed_tokens.weight has 0 of");
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
  fs::create_directory(dir.path() / "empty");
  write_directory(dir.path() / "empty/", small_model(true), FileDType::f32, kMaxShardBytes);
  CHECK(fs::exists(dir.path() / "empty" / "model.safetensors"));
}

TEST_CASE("huggingface: tied embeddings with another lm_head.weight are an error") {
  const TempDir dir;
  auto tensors = published_parameters(small_model(true));
  tensors.push_back({"lm_head.weight", {19, 12}});
  for (const float last : {0.0f, 1e-6f}) {
    SafetensorsWriter writer(dir.path() / "model.safetensors", tensors);
    for (const TensorSpec& t : tensors) {
      std::vector<float> values(static_cast<std::size_t>(count_of(t.shape)));
      if (t.name == "lm_head.weight") values.back() = last;
      writer.append(t.name, values);
    }
    writer.finish();
    const std::string error = error_of([&] { HuggingFaceWeights weights(dir.path(), small_model(true)); });
    if (last == 0.0f)
      CHECK(error == "");
    else
      check_error(error, "model.safetensors: lm_head.weight differs from model.embed_tokens.weight",
                  "tie_word_embeddings is true");
  }
}

TEST_CASE("huggingface: gates are added to the weights of a dense model") {
  const TempDir dir;
  const ModelConfig model = small_model(false);
  const auto all = published_parameters(model);
  std::vector<TensorSpec> dense;
  for (const TensorSpec& t : all)
    if (t.name.find("g_proj") == std::string::npos) dense.push_back(t);
  REQUIRE(dense.size() == all.size() - 2);
  SafetensorsWriter writer(dir.path() / "model.safetensors", dense);
  for (const TensorSpec& t : dense)
    writer.append(t.name, std::vector<float>(static_cast<std::size_t>(count_of(t.shape)), 0.3f));
  writer.finish();
  check_error(error_of([&] { HuggingFaceWeights weights(dir.path(), model); }), "self_attn.g_proj.weight is missing");
  for (const int outputs : {1, 3}) {
    const HuggingFaceWeights weights(dir.path(), model, AddedGates{outputs});
    for (const TensorSpec& t : all) {
      std::vector<float> values(static_cast<std::size_t>(count_of(t.shape)), 7.0f);
      weights.read(t, values);
      const bool gate = t.name.find("g_proj") != std::string::npos;
      const bool value = t.name.find("v_proj") != std::string::npos;
      const float expected = gate ? 0.0f : value ? static_cast<float>(2.0 / outputs * 0.3f) : 0.3f;
      CHECK(values == std::vector<float>(values.size(), expected));
    }
  }
  // A file with gates is not a dense model's.
  write_zeros(dir.path(), all);
  check_error(error_of([&] { HuggingFaceWeights weights(dir.path(), model, AddedGates{}); }),
              "unexpected tensor model.layers.0.self_attn.g_proj.weight");
}

TEST_CASE("huggingface: weights in another format are an error that says what they are") {
  const auto error_with = [](const std::string& name, const std::string& bytes) {
    const TempDir dir;
    replace_file(dir.path() / name, bytes);
    CHECK(has_weights(dir.path()));
    return error_of([&] { HuggingFaceWeights weights(dir.path()); });
  };
  const std::string good = "model.safetensors";
  check_error(error_with(good, "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"),
              good + ": a Git LFS pointer", "expected a safetensors file");
  check_error(error_with(good, "\n <!DOCTYPE html>\n<html lang=en>"), good + ": an HTML page");
  check_error(error_with(good, "<html><head><title>401</title>"), good + ": an HTML page");
  check_error(error_with(good, "<?xml version=\"1.0\"?>\n<Error>"), good + ": an XML page");
  check_error(error_with(good, "{\"error\": \"Repository not found\"}"),
              good + ": a text that begins with \"{\\\"error\\\"", "was the download refused?");
  check_error(error_with(good, "Entry not found"), good + ": a text that begins with \"Entry no\"");
  check_error(error_with(good, std::string("\xff\xff\xff\xff\xff\xff\xff\x0f", 8)), good + ": header of ");
  check_error(error_with(good, std::string("PK\x03\x04\0\0\0\0\0\0\0\0", 12)), good + ": a ZIP archive");
  check_error(error_with("pytorch_model.bin", "x"), "pytorch_model.bin: not a format that is read",
              "expected model.safetensors", "save_pretrained");
  check_error(error_with("pytorch_model.bin.index.json", "{}"), "pytorch_model.bin.index.json: not a format");
  check_error(error_with("pytorch_model-00001-of-00002.bin", "PK"), "pytorch_model-00001-of-00002.bin: not a format");
  check_error(error_with("consolidated.00.pth", "PK"), "consolidated.00.pth: not a format");
  check_error(error_with("q4.gguf", "GGUF"), "q4.gguf: not a format");
  check_error(error_with("model.safetensors.index.json", "version https://git-lfs.github.com/spec/v1\nsize 9\n"),
              "model.safetensors.index.json: a Git LFS pointer", "expected a JSON object");
  check_error(error_with("adapter_model.safetensors", "x"), "adapter_model.safetensors: an adapter");
  const TempDir empty;
  CHECK(!has_weights(empty.path()));
}

TEST_CASE("huggingface: a header whose length looks like another format, and null metadata, are read") {
  const TempDir dir;
  for (const std::size_t length : {std::size_t{0x280}, std::size_t{0x480}, std::size_t{0x8B1F}}) {
    std::string header =
        R"({"__metadata__":null,"model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    header.resize(length, ' ');
    std::string bytes(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
    replace_file(dir.path() / "model.safetensors", bytes + header + std::string(4, '\0'));
    const SafetensorsReader reader(dir.path() / "model.safetensors");
    CHECK(reader.tensors().size() == 1);
    CHECK(reader.metadata().empty());
  }
}

TEST_CASE("huggingface: weights written by another program load") {
  const fs::path directory =
      ssa::test::source_dir() / "tests" / "golden" / "cases" / "full-untied-llama3rope" / "model";
  const ModelConfig model = load_model_config(directory / "config.json");
  const HuggingFaceWeights weights(directory, model);
  std::vector<float> norm(static_cast<std::size_t>(model.hidden_size));
  weights.read({"model.norm.weight", {model.hidden_size}}, norm);
  CHECK(norm == std::vector<float>(norm.size(), 1.0f));
}
