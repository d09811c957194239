#include "ssa/data/best_fit.h"

#include <array>
#include <bit>
#include <numeric>

#include "ssa/base/error.h"

namespace ssa {

IntegerSet::IntegerSet(std::int64_t bound) {
  do {
    bound = (bound + 63) / 64;
    levels_.emplace_back(static_cast<std::size_t>(bound));
  } while (bound > 1);
}

void IntegerSet::insert(std::int64_t i) {
  for (std::vector<std::uint64_t>& level : levels_) {
    level[static_cast<std::size_t>(i >> 6)] |= std::uint64_t{1} << (i & 63);
    i >>= 6;
  }
}

void IntegerSet::erase(std::int64_t i) {
  for (std::vector<std::uint64_t>& level : levels_) {
    std::uint64_t& word = level[static_cast<std::size_t>(i >> 6)];
    word &= ~(std::uint64_t{1} << (i & 63));
    if (word != 0) return;
    i >>= 6;
  }
}

std::int64_t IntegerSet::at_least(std::int64_t i) const {
  for (std::size_t level = 0; level < levels_.size(); ++level) {
    const auto word_index = static_cast<std::size_t>(i >> 6);
    if (word_index >= levels_[level].size()) return -1;
    const std::uint64_t word = levels_[level][word_index] & (~std::uint64_t{0} << (i & 63));
    if (word == 0) {
      i = (i >> 6) + 1;  // above, from the next word
      continue;
    }
    i = static_cast<std::int64_t>(word_index << 6) + std::countr_zero(word);
    for (; level > 0; --level) i = i << 6 | std::countr_zero(levels_[level - 1][static_cast<std::size_t>(i)]);
    return i;
  }
  return -1;
}

BestFit::BestFit(std::int64_t row_length)
    : row_length_(row_length), rooms_(row_length + 1), heads_(static_cast<std::size_t>(row_length) + 1, -1) {}

/// Sets order_ by a radix sort of row_length - length.
void BestFit::sort(std::span<const std::int32_t> lengths) {
  constexpr int kDigitBits = 9;
  constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
  order_.resize(lengths.size());
  sorting_.resize(lengths.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto key = [&](std::int32_t piece) {
    return static_cast<std::uint64_t>(row_length_ - lengths[static_cast<std::size_t>(piece)]);
  };
  for (int shift = 0; row_length_ >> shift > 0; shift += kDigitBits) {
    std::array<std::int32_t, kDigits + 1> begin{};
    for (const std::int32_t piece : order_) ++begin[(key(piece) >> shift & (kDigits - 1)) + 1];
    for (std::size_t digit = 1; digit < kDigits; ++digit) begin[digit] += begin[digit - 1];
    for (const std::int32_t piece : order_)
      sorting_[static_cast<std::size_t>(begin[key(piece) >> shift & (kDigits - 1)]++)] = piece;
    order_.swap(sorting_);
  }
}

std::int64_t BestFit::pack(std::span<const std::int32_t> lengths) {
  sort(lengths);
  rows_.resize(lengths.size());
  room_.clear();
  next_.clear();
  for (const std::int32_t piece : order_) {
    const std::int32_t length = lengths[static_cast<std::size_t>(piece)];
    SSA_CHECK(0 < length && length <= row_length_, "best fit: a piece of ", length, " tokens, expected from 1 to ",
              row_length_);
    std::int64_t room = rooms_.at_least(length);
    std::int32_t row;
    if (room < 0) {
      row = static_cast<std::int32_t>(room_.size());
      room = row_length_;
      room_.push_back(0);
      next_.push_back(-1);
    } else {
      std::int32_t& head = heads_[static_cast<std::size_t>(room)];
      row = head;
      head = next_[static_cast<std::size_t>(row)];
      if (head < 0) rooms_.erase(room);
    }
    rows_[static_cast<std::size_t>(piece)] = row;
    room -= length;
    room_[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(room);
    if (room == 0) continue;
    std::int32_t& head = heads_[static_cast<std::size_t>(room)];
    if (head < 0) rooms_.insert(room);
    next_[static_cast<std::size_t>(row)] = head;
    head = row;
  }
  for (const std::int32_t room : room_) {  // for the next call
    if (room == 0 || heads_[static_cast<std::size_t>(room)] < 0) continue;
    heads_[static_cast<std::size_t>(room)] = -1;
    rooms_.erase(room);
  }
  return std::ssize(room_);
}

}  // namespace ssa
