#include "src/config/config_keys.h"

#include <algorithm>

#include "src/config/config_fields.h"
#include "src/config/config_json.h"

namespace ssa::config_fields {
namespace {

/// Keys that are not AtResume::recorded. A section includes all of its keys that are not listed themselves.
constexpr std::pair<std::string_view, AtResume> kAtResume[] = {
    {"model", AtResume::refused},
    {"model.initializer_range", AtResume::free},
    {"model.max_position_embeddings", AtResume::free},
    {"init_from", AtResume::refused},
    {"init_state", AtResume::refused},
    {"output_dir", AtResume::free},
    {"attention.method", AtResume::refused},
    {"attention.selection", AtResume::refused},
    {"data.path", AtResume::refused},
    {"data.sources", AtResume::refused},
    {"data.packing", AtResume::refused},
    {"data.document_mask", AtResume::refused},
    {"data.min_document_tokens", AtResume::refused},
    {"data.shuffle", AtResume::refused},
    {"data.skip_train_samples", AtResume::refused},
    {"data.max_train_samples", AtResume::refused},
    {"data.eval_path", AtResume::free},
    {"train.max_length", AtResume::refused},
    {"train.seed", AtResume::refused},
    {"train.offload_moments", AtResume::free},
    {"train.gradient_checkpointing", AtResume::free},
    {"train.logging_steps", AtResume::free},
    {"train.eval_steps", AtResume::free},
    {"train.eval_tasks", AtResume::free},
    {"train.eval_tasks_steps", AtResume::free},
    {"train.eval_tasks_limit", AtResume::free},
    {"train.eval_tasks_num_fewshot", AtResume::free},
    {"train.eval_tokenizer", AtResume::free},
    {"train.attention_stats_steps", AtResume::free},
    {"checkpoint", AtResume::free},
    {"distributed.overlap", AtResume::free},
};

AtResume at_resume_of(std::string_view path) {
  for (;;) {
    for (const auto& [key, at_resume] : kAtResume)
      if (key == path) return at_resume;
    const std::size_t dot = path.rfind('.');
    if (dot == std::string_view::npos) return AtResume::recorded;
    path = path.substr(0, dot);
  }
}

template <class Struct>
void append_keys(const std::string& prefix, std::vector<Key>& list) {
  visit_fields(Of<Struct>{}, [&](const auto& field) {
    using Value = typename std::decay_t<decltype(field)>::value_type;
    using Inner = typename OptionalOf<Value>::type;
    Key key;
    key.path = prefix + std::string(field.key);
    key.type = expectation<Value>(field.range);
    key.meaning = field.meaning;
    key.takes_text = std::is_same_v<Inner, std::string> || std::is_enum_v<Inner> ||
                     std::is_same_v<Inner, ModelConfig> || std::is_same_v<Inner, EvalPaths>;
    key.takes_object = Section<Inner> || std::is_same_v<Inner, EvalPaths> || std::is_same_v<Inner, TaskPaths>;
    key.section = Section<Inner>;
    key.at_resume = at_resume_of(key.path);
    if (!field.required) {
      key.default_text = field.default_text;
      if constexpr (!Section<Value>) {
        if (key.default_text.empty()) key.default_text = plain_text(to_json(Struct{}.*field.member));
      }
    }
    list.push_back(key);
    if constexpr (Section<Inner>) append_keys<Inner>(key.path + ".", list);
  });
}

struct Split {
  std::string_view section, name;
};

Split split(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  if (dot == std::string_view::npos) return {{}, path};
  return {path.substr(0, dot), path.substr(dot + 1)};
}

}  // namespace

const std::vector<Key>& keys() {
  static const std::vector<Key> list = [] {
    std::vector<Key> made;
    append_keys<Config>("", made);
    return made;
  }();
  return list;
}

const Key* find_key(std::string_view path) {
  const auto& list = keys();
  const auto it = std::find_if(list.begin(), list.end(), [&](const Key& key) { return key.path == path; });
  return it == list.end() ? nullptr : &*it;
}

const std::string& nearest_key(std::string_view path) {
  // An edit of the name costs more than any change of the section, so that train.method suggests attention.method.
  constexpr std::size_t kNameEdit = 4, kOtherSection = 3;
  const Split wanted = split(path);
  const auto cost = [&](const Key& key) {
    const Split has = split(key.path);
    return kNameEdit * edit_distance(wanted.name, has.name) +
           std::min(kOtherSection, edit_distance(wanted.section, has.section));
  };
  const auto& list = keys();
  return std::min_element(list.begin(), list.end(), [&](const Key& a, const Key& b) { return cost(a) < cost(b); })
      ->path;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Optimal string alignment: rows i-2, i-1 and i of the table of distances between prefixes.
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace ssa::config_fields
