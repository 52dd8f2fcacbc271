#include "model/grammar_builder.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {

using Expr = GrammarBuilder::Expr;

GrammarBuilder::GrammarBuilder(const GrammarLimits& limits) : limits_(&limits) {
  nodes_.push_back({Kind::kNever});
  nodes_.push_back({Kind::kSequence});
}

Expr GrammarBuilder::never() { return {0}; }
Expr GrammarBuilder::empty() { return {1}; }

Expr GrammarBuilder::add(Node node) {
  const size_t size = nodes_.size() + children_.size() + text_.size();
  if (full_ || size > size_t{4} * limits_->max_instructions) {
    full_ = true;
    return never();
  }
  nodes_.push_back(node);
  return {static_cast<uint32_t>(nodes_.size() - 1)};
}

uint32_t GrammarBuilder::add_children(std::span<const Expr> children) {
  const auto first = static_cast<uint32_t>(children_.size());
  if (!full_) {
    children_.insert(children_.end(), children.begin(), children.end());
    required_.resize(children_.size());
  }
  return first;
}

Expr GrammarBuilder::literal(std::string_view bytes) {
  if (bytes.empty()) return empty();
  const auto first = static_cast<uint32_t>(text_.size());
  if (!full_) text_ += bytes;
  return add({Kind::kLiteral, first, static_cast<uint32_t>(bytes.size())});
}

Expr GrammarBuilder::byte_of(const ByteSet& set) {
  if (set.none()) return never();
  if (full_) return never();
  const auto [at, is_new] = set_ids_.try_emplace(set, static_cast<uint32_t>(sets_.size()));
  if (is_new) sets_.push_back(set);
  return add({Kind::kBytes, at->second});
}

Expr GrammarBuilder::byte_between(unsigned char first, unsigned char last) {
  ByteSet set;
  for (unsigned byte = first; byte <= last; ++byte) set.set(byte);
  return byte_of(set);
}

Expr GrammarBuilder::sequence(std::span<const Expr> parts) {
  if (parts.size() == 1) return parts[0];
  if (parts.empty()) return empty();
  return add({Kind::kSequence, add_children(parts), static_cast<uint32_t>(parts.size())});
}

Expr GrammarBuilder::either(std::span<const Expr> branches) {
  if (branches.size() == 1) return branches[0];
  if (branches.empty()) return never();
  return add({Kind::kEither, add_children(branches), static_cast<uint32_t>(branches.size())});
}

Expr GrammarBuilder::repeat(Expr body, uint32_t min, uint32_t max) {
  CHECK_LE(min, max);
  if (max == 0) return empty();
  if (min == 1 && max == 1) return body;
  return add({Kind::kRepeat, body.id, 0, min, max});
}

Expr GrammarBuilder::members(std::span<const Member> members, Expr separator) {
  if (members.empty()) return empty();
  const auto first = static_cast<uint32_t>(children_.size());
  for (const Member& member : members) {
    add_children(std::span(&member.expr, 1));
    if (!full_) required_.back() = member.required;
  }
  return add({Kind::kMembers, first, static_cast<uint32_t>(members.size()), separator.id});
}

Expr GrammarBuilder::choice(std::vector<std::string> texts) {
  CHECK(!texts.empty());
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return choice_of(texts, 0);
}

/// Texts that share their first `num_shared` bytes, without those. Recurses at most once for each
/// text, since at each level the texts differ.
Expr GrammarBuilder::choice_of(std::span<const std::string> sorted, size_t num_shared) {
  const std::string& first = sorted.front();
  const std::string& last = sorted.back();
  size_t prefix = num_shared;
  while (prefix < std::min(first.size(), last.size()) && first[prefix] == last[prefix]) ++prefix;
  const Expr common = literal(std::string_view(first).substr(num_shared, prefix - num_shared));
  if (sorted.size() == 1) return common;
  std::vector<Expr> branches;
  size_t begin = 0;
  if (first.size() == prefix) {
    branches.push_back(empty());
    begin = 1;
  }
  for (size_t i = begin; i < sorted.size(); ++i) {
    if (i + 1 < sorted.size() && sorted[i + 1][prefix] == sorted[i][prefix]) continue;
    branches.push_back(choice_of(sorted.subspan(begin, i + 1 - begin), prefix));
    begin = i + 1;
  }
  return sequence({common, either(branches)});
}

GrammarBuilder::Rule GrammarBuilder::declare(std::string name) {
  rules_.push_back({std::move(name), never()});
  return {static_cast<uint32_t>(rules_.size() - 1)};
}

void GrammarBuilder::define(Rule rule, Expr body) { rules_[rule.id].body = body; }

void GrammarBuilder::count_nesting(Rule rule) { rules_[rule.id].counts_nesting = true; }

Expr GrammarBuilder::call(Rule rule) { return add({Kind::kCall, rule.id}); }

}  // namespace troupe::model
