#include "data_tools/dataset_json.h"

#include <optional>
#include <type_traits>

#include "ssa/base/file.h"

namespace ssa {
using json = nlohmann::ordered_json;

json shards_json(const std::vector<ShardInfo>& shards) {
  json list = json::array();
  for (const ShardInfo& shard : shards) {
    json& fields = list.emplace_back();
    visit_fields(shard, [&](const char* key, const auto& value) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::optional<std::int64_t>>) {
        if (value) fields[key] = *value;
      } else {
        fields[key] = value;
      }
    });
  }
  return list;
}

void write_dataset_json(const std::filesystem::path& directory, const Tokenizer& tokenizer, TokenType type,
                        const std::vector<ShardInfo>& shards) {
  json of_tokenizer = {{"name", tokenizer.name()}, {"sha256", tokenizer.sha256()}};
  if (tokenizer.depends_on_unicode()) of_tokenizer["unicode"] = unicode_version();
  const json dataset = {{"format", kDatasetFormat},
                        {"tokenizer", of_tokenizer},
                        {"vocab_size", tokenizer.vocab_size()},
                        {"eos_token_id", tokenizer.eos_token_id()},
                        {"dtype", name_of(type)},
                        {"shards", shards_json(shards)}};
  replace_file(directory / "dataset.json", dataset.dump(1) + "\n");
}

}  // namespace ssa
