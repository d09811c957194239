#include "ssa/data/dataset.h"

#include <algorithm>
#include <numbers>

#include "ssa/base/checksum.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/base/json_file.h"
#include "ssa/data/json_fields.h"

namespace ssa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJsonName = "dataset.json";

/// shard-NNNNN
bool is_shard_name(std::string_view name) {
  constexpr std::string_view kPrefix = "shard-";
  if (!name.starts_with(kPrefix) || name.size() != kPrefix.size() + 5) return false;
  return std::all_of(name.begin() + kPrefix.size(), name.end(), [](char c) { return '0' <= c && c <= '9'; });
}

/// The names of the shards in the directory; with `any_name`, also those that ssa_tokenize does not use. A .bin without
/// its .idx, or the reverse, is an error.
std::set<std::string> list_shards(const fs::path& directory, bool any_name) {
  std::set<std::string> bins, idxs;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const fs::path &file = entry.path(), suffix = file.extension();
    if (!any_name && !is_shard_name(file.stem().string())) continue;
    if (suffix == ".bin") bins.insert(file.stem().string());
    if (suffix == ".idx") idxs.insert(file.stem().string());
  }
  for (const std::string& name : bins)
    SSA_CHECK(idxs.contains(name), (directory / (name + ".idx")).string(), ": missing, expected next to ", name,
              ".bin");
  for (const std::string& name : idxs)
    SSA_CHECK(bins.contains(name), (directory / (name + ".bin")).string(), ": missing, expected next to ", name,
              ".idx");
  return bins;
}

/// Whether the name of a shard says that it is held out from training ("valid"), or trained on ("train").
enum class Split { unnamed, train, held_out };
Split split_of(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  name = '_' + name + '_';
  for (const char* word : {"_valid_", "_validation_", "_val_", "_test_", "_eval_", "_dev_", "_heldout_"})
    if (name.find(word) != name.npos) return Split::held_out;
  return name.find("_train_") != name.npos ? Split::train : Split::unnamed;
}

/// Megatron's tools leave the splits of a corpus side by side. Throws UsageError where training would read both.
void check_one_split(const fs::path& directory, const std::set<std::string>& names) {
  const auto with = [&](bool held_out) {
    return std::find_if(names.begin(), names.end(),
                        [&](const std::string& name) { return (split_of(name) == Split::held_out) == held_out; });
  };
  const auto other = with(false), held_out = with(true);
  if (other == names.end() || held_out == names.end()) return;
  fail_usage(directory.string(), ": holds ", *other, " next to ", *held_out, ", expected one split: name it, as in ",
             (directory / *other).string());
}

/// An interrupted job of ssa_tokenize has only a part of the documents. Its state is in the --output directory; with a
/// split, the datasets are train/ and validation/ in it.
void check_finished(const fs::path& directory) {
  const fs::path whole = fs::weakly_canonical(directory);
  std::vector<fs::path> places = {whole};
  if (whole.filename() == "train" || whole.filename() == "validation") places.push_back(whole.parent_path());
  for (const fs::path& place : places) {
    const fs::path state = place / kTokenizeStateName;
    if (fs::exists(state) && read_file(state).find("\"tokenizer_sha256\"") != std::string::npos)
      fail(directory.string(), ": the ssa_tokenize job of ", place.string(),
           " is not finished, expected a whole dataset; the same ssa_tokenize command continues it");
  }
}

void expect_equal(const std::string& file, const char* what, std::int64_t found, std::int64_t expected) {
  SSA_CHECK(found == expected, file, ": ", found, " ", what, ", expected ", expected, " (", kJsonName, ")");
}

void check_against(const IndexedDataset& shard, const ShardInfo& info, TokenType dtype) {
  const std::string bin = shard.prefix().string() + ".bin", idx = shard.prefix().string() + ".idx";
  SSA_CHECK(shard.type() == dtype, idx, ": tokens are ", name_of(shard.type()), ", expected ", name_of(dtype), " (",
            kJsonName, ")");
  expect_equal(idx, "documents", shard.documents(), info.documents);
  expect_equal(idx, "tokens", shard.tokens(), info.tokens);
  expect_equal(bin, "bytes", static_cast<std::int64_t>(shard.bin().size()), info.bin_bytes);
  expect_equal(idx, "bytes", static_cast<std::int64_t>(shard.idx().size()), info.idx_bytes);
}

void check_hash(const std::string& file, const MappedFile& bytes, const std::string& expected) {
  const std::string found = xxh3_hex(bytes.data(), bytes.size());
  SSA_CHECK(found == expected, file, ": checksum ", found, ", expected ", expected, " (", kJsonName, ")");
}

}  // namespace

std::optional<fs::path> megatron_prefix(const fs::path& path) {
  if (fs::is_directory(path)) return std::nullopt;
  fs::path prefix = path;
  if (path.extension() == ".bin" || path.extension() == ".idx") prefix.replace_extension();
  if (is_present(fs::path(prefix) += ".idx")) return prefix;
  return std::nullopt;
}

std::set<std::string> megatron_names(const fs::path& directory) { return list_shards(directory, true); }

DatasetInfo read_dataset_info(const fs::path& json_file) {
  const auto json = read_own_json_object(json_file);
  const JsonFields top(json, json_file.string());
  DatasetInfo info;
  SSA_CHECK(top.text("format") == kDatasetFormat, json_file.string(), ": format is ", top.text("format"), ", expected ",
            kDatasetFormat);
  const JsonFields tokenizer = top.object("tokenizer");
  info.tokenizer_name = tokenizer.text("name");
  info.tokenizer_sha256 = tokenizer.text("sha256");
  info.vocab_size = top.count("vocab_size");
  info.eos_token_id = top.count("eos_token_id");
  SSA_CHECK(info.eos_token_id < info.vocab_size, json_file.string(), ": eos_token_id is ", info.eos_token_id,
            ", expected below vocab_size ", info.vocab_size);
  const std::string dtype = top.text("dtype");
  SSA_CHECK(dtype == name_of(TokenType::uint16) || dtype == name_of(TokenType::int32), json_file.string(),
            ": dtype is ", dtype, ", expected uint16 or int32");
  info.dtype = dtype == name_of(TokenType::uint16) ? TokenType::uint16 : TokenType::int32;
  for (const JsonFields& shard : top.objects("shards")) {
    visit_fields(info.shards.emplace_back(), [&](const char* key, auto& value) { shard.read(key, value); });
    const std::string& name = info.shards.back().name;
    SSA_CHECK(is_shard_name(name), shard.where(), ": name is ", name, ", expected shard-NNNNN");
    const ShardInfo& last = info.shards.back();
    SSA_CHECK(last.text_bytes != 0 || last.tokens <= last.documents, shard.where(), ": text_bytes is 0, expected the ",
              "bytes of the text of ", last.tokens, " tokens in ", last.documents,
              " documents; without the key, losses ", "are not given in bits per byte");
    SSA_CHECK(info.shards.size() < 2 || info.shards[info.shards.size() - 2].name < name, shard.where(), ": name is ",
              name, ", expected one after ", info.shards[info.shards.size() - 2].name);
  }
  return info;
}

Dataset::Dataset(const fs::path& path) : directory_(path) {
  std::set<std::string> names;
  const std::optional<fs::path> prefix = megatron_prefix(path);
  if (prefix) {
    directory_ = prefix->has_parent_path() ? prefix->parent_path() : fs::path(".");
    names.insert(prefix->filename().string());
  } else {
    SSA_CHECK(fs::is_directory(path), path.string(),
              ": no such directory, expected a dataset, or the common path of a "
              ".bin and an .idx");
  }
  const fs::path json_file = directory_ / kJsonName;
  const bool ours = is_present(json_file) && (!prefix || is_shard_name(*names.begin()));
  if (!prefix) names = list_shards(directory_, !ours);
  if (!ours && !prefix) {
    check_finished(directory_);
    check_one_split(directory_, names);
  }
  if (ours) {
    info_ = read_dataset_info(json_file);
    if (prefix) std::erase_if(info_->shards, [&](const ShardInfo& shard) { return !names.contains(shard.name); });
    std::set<std::string> listed;
    for (const ShardInfo& shard : info_->shards) listed.insert(shard.name);
    for (const std::string& name : names)
      SSA_CHECK(listed.contains(name), (directory_ / (name + ".bin")).string(), ": not listed in ", kJsonName);
    names = std::move(listed);  // a listed shard that is missing fails by its file name when opened
  }
  if (names.empty()) {
    const fs::path train = directory_ / "train";  // where ssa_tokenize puts the training part of a split
    fail(directory_.string(), ": no documents, expected pairs of .bin and .idx, such as shard-00000",
         fs::exists(train / kJsonName) ? concat("; did you mean ", train.string(), "?") : "");
  }
  shards_.reserve(names.size());
  for (const std::string& name : names) {
    shards_.emplace_back(directory_ / name);
    if (info_) check_against(shards_.back(), info_->shards[shards_.size() - 1], info_->dtype);
  }
}

std::int64_t Dataset::documents() const {
  std::int64_t sum = 0;
  for (const IndexedDataset& shard : shards_) sum += shard.documents();
  return sum;
}

std::int64_t Dataset::tokens() const {
  std::int64_t sum = 0;
  for (const IndexedDataset& shard : shards_) sum += shard.tokens();
  return sum;
}

std::optional<std::int64_t> Dataset::text_bytes() const {
  if (!info_) return std::nullopt;
  if (info_->tokenizer_name == "bytes") return tokens() - documents();
  std::int64_t sum = 0;
  for (const ShardInfo& shard : info_->shards) {
    if (!shard.text_bytes) return std::nullopt;
    sum += *shard.text_bytes;
  }
  return sum;
}

std::optional<double> bits_per_byte(const Dataset& dataset, double nats_per_token) {
  const std::optional<std::int64_t> bytes = dataset.text_bytes();
  if (!bytes || *bytes <= 0) return std::nullopt;
  return nats_per_token / std::numbers::ln2 * static_cast<double>(dataset.tokens()) / static_cast<double>(*bytes);
}

void Dataset::check_model(std::int64_t vocab_size, std::int64_t eos_token_id) const {
  if (!info_) return;
  const std::string file = (directory_ / kJsonName).string();
  SSA_CHECK(info_->vocab_size <= vocab_size, file, ": tokenizer ", info_->tokenizer_name, " has a vocabulary of ",
            info_->vocab_size, ", expected at most the model's vocab_size ", vocab_size);
  SSA_CHECK(info_->eos_token_id == eos_token_id, file, ": tokenizer ", info_->tokenizer_name, " has eos_token_id ",
            info_->eos_token_id, ", expected the model's ", eos_token_id);
}

void Dataset::verify(std::optional<std::int64_t> vocab_size) const {
  if (info_ && (!vocab_size || info_->vocab_size < *vocab_size)) vocab_size = info_->vocab_size;
  std::vector<std::int32_t> ids;
  for (std::size_t s = 0; s < shards_.size(); ++s) {
    const IndexedDataset& shard = shards_[s];
    if (info_) {
      check_hash(shard.prefix().string() + ".bin", shard.bin(), info_->shards[s].bin_xxh3);
      check_hash(shard.prefix().string() + ".idx", shard.idx(), info_->shards[s].idx_xxh3);
    }
    for (std::int64_t d = 0; d < shard.documents(); ++d) {
      ids.resize(static_cast<std::size_t>(shard.length(d)));
      shard.read(d, 0, ids);
      check_token_ids(shard, d, 0, ids, vocab_size);
      if (!info_) continue;
      const std::int64_t eos = info_->eos_token_id;
      SSA_CHECK(!ids.empty() && ids.back() == eos, shard.prefix().string(), ".bin: document ", d, " ends in ",
                ids.empty() ? std::string("nothing") : concat("token id ", ids.back()),
                ", expected the end-of-text id ", eos);
    }
  }
}

void check_token_ids(const IndexedDataset& shard, std::int64_t document, std::int64_t offset,
                     std::span<const std::int32_t> ids, std::optional<std::int64_t> vocab_size) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    SSA_CHECK(0 <= ids[i] && (!vocab_size || ids[i] < *vocab_size), shard.prefix().string(), ".bin: document ",
              document, " holds token id ", ids[i], " at ", offset + static_cast<std::int64_t>(i),
              vocab_size ? concat(", expected ids below vocab_size ", *vocab_size) : concat(", expected ids from 0"));
}

}  // namespace ssa
