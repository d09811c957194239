// Every key of the config as data, made from the field lists: for suggestions, --set and docs/config.md's table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ssa/config/config.h"

namespace ssa::config_fields {

struct Key {
  std::string path;  ///< "train.max_length"
  std::string type;
  std::string default_text;  ///< as JSON; empty if the key is required
  std::string meaning;
  bool takes_text = false;    ///< text, an enum's name or a path
  bool takes_object = false;  ///< an object, perhaps one without keys of its own
  bool section = false;       ///< has keys of its own
  AtResume at_resume = AtResume::recorded;
};

constexpr std::string_view name_of(AtResume at_resume) {
  switch (at_resume) {
    case AtResume::free: return "free";
    case AtResume::recorded: return "recorded";
    case AtResume::refused: return "refused";
  }
  return "?";
}

/// In the order of the field lists, each section before its keys.
const std::vector<Key>& keys();

/// The key with this path, or nullptr.
const Key* find_key(std::string_view path);

/// The key that a misspelled path most likely means: one with the same name in another section, else the one the fewest
/// edits away.
const std::string& nearest_key(std::string_view path);

/// Number of insertions, deletions, replacements and swaps of adjacent characters that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace ssa::config_fields
