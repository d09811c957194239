// Python's str operations that scores depend on. Input and output are valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ssa::eval {

/// str.isspace of one code point; also what \s matches in a str pattern.
bool is_space(std::uint32_t code_point);

std::string_view rstrip(std::string_view text);
std::string_view strip(std::string_view text);

/// len(text): code points.
std::int64_t code_points(std::string_view text);

/// len(re.split(r"\s+", text)): the number of runs of white space, plus one.
std::int64_t count_words(std::string_view text);

/// text.replace(from, to)
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

/// text.split(): the words between white space, without empty ones.
std::vector<std::string> split_words(std::string_view text);

/// text.lower(), and text.capitalize(): the first character in title case, the others in lower case. The one mapping
/// that depends on neighboring characters is left out: a Greek capital sigma at the end of a word becomes a medial
/// sigma.
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);

}  // namespace ssa::eval
