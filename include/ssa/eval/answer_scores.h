// Scores of generated answers, from 0 to 1, as lm-evaluation-harness 0.4.13 computes them for LongBench and RULER with
// the Python packages rouge 1.0.1 and fuzzywuzzy 0.18.0 (with Python's difflib, not with Levenshtein). The scores equal
// theirs bit for bit, with three exceptions: which characters outside ASCII are letters or digits follows Unicode 16.0,
// and their upper and lower case Unicode 14.0, not the tables of the Python version; str.lower leaves out the final
// sigma (python_text.h); and where rouge exceeds Python's recursion limit, in a pair of sentences of together about 950
// words, the harness scores 0.
//
// All texts are valid UTF-8.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ssa::eval {

/// The harmonic mean of precision and recall of the answer's words, counted with their repetitions. Both texts are
/// compared in lower case, without ASCII punctuation and the words a, an, the.
double qa_f1(std::string_view prediction, std::string_view answer);

/// ROUGE-L of the package `rouge`: F over the union of the longest common subsequences of all pairs of sentences (parts
/// between periods), with sets of words. 0 if one of the texts has no sentence.
double rouge_l(std::string_view prediction, std::string_view answer);

/// 1 / (number of classes that occur in the prediction) if `answer` is one of them, else 0. A class whose name is part
/// of the answer is left out, except that the class after one that is left out is not examined.
double classification_score(std::string_view prediction, std::string_view answer, std::span<const std::string> classes);

/// The fraction of the prediction's numbers that equal `answer`, which is the text of a number; 0 without numbers.
double count_score(std::string_view prediction, std::string_view answer);

/// The N of the first "Paragraph N" in an answer; empty if there is none.
std::string paragraph_number(std::string_view answer);
/// count_score for the answer's paragraph_number.
double retrieval_score(std::string_view prediction, std::string_view answer);

/// The similarity of the first line of code in the prediction (not blank, without ` # //) and the answer:
/// matching_ratio in whole percents.
double code_similarity(std::string_view prediction, std::string_view answer);

/// difflib.SequenceMatcher(None, a, b).ratio(): twice the matching code points over the sum of the lengths. If b has at
/// least 200 code points, those that make up more than 1 % of it start no match (autojunk).
double matching_ratio(std::string_view a, std::string_view b);

/// RULER: the fraction of `answers` that occur in the prediction, regardless of case.
double string_match(std::string_view prediction, std::span<const std::string> answers);

}  // namespace ssa::eval
