// Every key of the config as data, made from the field lists: for suggestions, --set and docs/config.md's table.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ssa::config_fields {

struct Key {
  std::string path;  ///< "train.max_length"
  std::string type;
  std::string default_text;  ///< as JSON; empty if the key is required
  std::string meaning;
  bool takes_text = false;  ///< text, an enum's name or a path
  bool section = false;     ///< holds keys of its own
};

/// In the order of the lists, a section before its keys.
const std::vector<Key>& keys();

/// nullptr if there is none of this path.
const Key* find_key(std::string_view path);

/// The key a misspelt path most likely means: the same name in another section, else the fewest edits away.
const std::string& nearest_key(std::string_view path);

/// Insertions, deletions, replacements and swaps of neighbours that turn one into the other.
std::size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace ssa::config_fields
