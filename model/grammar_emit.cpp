// Translation of expressions into a program: rules one after the other, each behind the first that
// calls it, the subroutines of counted repetitions likewise.

#include <deque>
#include <map>
#include <optional>

#include "model/grammar_builder.hpp"
#include "model/grammar_check.hpp"

namespace troupe::model {

using Op = Instruction::Op;

class GrammarEmitter {
 public:
  explicit GrammarEmitter(const GrammarBuilder& builder) : builder_(&builder) {}

  Result<std::shared_ptr<const Grammar>> run(GrammarBuilder::Expr root);

 private:
  using Kind = GrammarBuilder::Kind;
  using Node = GrammarBuilder::Node;
  /// A call or repetition whose target has not been emitted yet.
  struct Pending {
    uint32_t address;
    std::optional<uint32_t> rule;  // else `body`
    uint32_t body;
  };

  [[nodiscard]] uint32_t here() const { return static_cast<uint32_t>(grammar_.code.size()); }
  [[nodiscard]] bool full() const { return here() > builder_->limits_->max_instructions; }
  uint32_t push(Instruction instruction) {
    grammar_.code.push_back(instruction);
    return here() - 1;
  }
  void land(uint32_t address) { grammar_.code[address].target = here(); }

  void emit(uint32_t id);
  void emit_either(const Node& node);
  void emit_repeat(const Node& node);
  void emit_members(const Node& node);
  void emit_pending();
  void add_sets();
  void shorten_jumps();

  const GrammarBuilder* builder_;
  Grammar grammar_;
  std::deque<Pending> pending_;
  std::map<uint32_t, uint32_t> rule_addresses_;
  std::map<uint32_t, uint32_t> byte_sets_;  // first byte of a literal -> index of its set
};

void GrammarEmitter::emit(uint32_t id) {
  if (full()) return;
  const Node& node = builder_->nodes_[id];
  switch (node.kind) {
    case Kind::kNever: push({.op = Op::kJump, .target = here()}); break;
    case Kind::kLiteral:
      for (uint32_t i = 0; i < node.count && !full(); ++i) {
        const auto byte = static_cast<unsigned char>(builder_->text_[node.first + i]);
        const auto size = static_cast<uint32_t>(grammar_.sets.size());
        const auto [at, is_new] = byte_sets_.try_emplace(byte, size);
        if (is_new) grammar_.sets.emplace_back().set(byte);
        push({.op = Op::kBytes, .target = at->second});
      }
      break;
    case Kind::kBytes: push({.op = Op::kBytes, .target = node.first}); break;
    case Kind::kSequence:
      for (uint32_t i = 0; i < node.count; ++i) emit(builder_->children_[node.first + i].id);
      break;
    case Kind::kEither: emit_either(node); break;
    case Kind::kRepeat: emit_repeat(node); break;
    case Kind::kMembers: emit_members(node); break;
    case Kind::kCall:
      pending_.push_back({here(), node.first, 0});
      push({.op = Op::kCall, .deeper = builder_->rules_[node.first].counts_nesting});
      break;
  }
}

void GrammarEmitter::emit_either(const Node& node) {
  std::vector<uint32_t> jumps;
  for (uint32_t i = 0; i < node.count && !full(); ++i) {
    const bool is_last = i + 1 == node.count;
    const uint32_t split = is_last ? 0 : push({.op = Op::kSplit});
    emit(builder_->children_[node.first + i].id);
    if (is_last) break;
    jumps.push_back(push({.op = Op::kJump}));
    land(split);
  }
  for (const uint32_t jump : jumps) land(jump);
}

void GrammarEmitter::emit_repeat(const Node& node) {
  if (node.min == 0 && node.max == 1) {
    const uint32_t split = push({.op = Op::kSplit});
    emit(node.first);
    land(split);
  } else if (node.min == 0 && node.max == kUnlimited) {
    const uint32_t split = push({.op = Op::kSplit});
    emit(node.first);
    push({.op = Op::kJump, .target = split});
    land(split);
  } else if (node.min == 1 && node.max == kUnlimited) {
    const uint32_t begin = here();
    emit(node.first);
    push({.op = Op::kSplit, .target = begin});
  } else {
    pending_.push_back({here(), std::nullopt, node.first});
    push({.op = Op::kRepeat, .min = node.min, .max = node.max});
  }
}

/// Two copies of each member: one for when none came before, one behind a separator.
void GrammarEmitter::emit_members(const Node& node) {
  const auto child = [&](uint32_t i) { return builder_->children_[node.first + i].id; };
  const auto required = [&](uint32_t i) { return builder_->required_[node.first + i]; };
  std::vector<uint32_t> to_next(node.count);  // jumps behind the first copy of each member
  uint32_t num_first = 0;
  std::optional<uint32_t> none;
  while (num_first < node.count && !full()) {
    const uint32_t i = num_first++;
    const bool is_optional = !required(i);
    const uint32_t split = is_optional ? push({.op = Op::kSplit}) : 0;
    emit(child(i));
    to_next[i] = push({.op = Op::kJump});
    if (!is_optional) break;
    land(split);
    if (num_first == node.count) none = push({.op = Op::kJump});
  }
  for (uint32_t i = 1; i < node.count && !full(); ++i) {
    if (i <= num_first) land(to_next[i - 1]);
    const std::optional<uint32_t> split =
        required(i) ? std::nullopt : std::optional(push({.op = Op::kSplit}));
    emit(node.min);
    emit(child(i));
    if (split) land(*split);
  }
  if (num_first == node.count) land(to_next[num_first - 1]);
  if (none) land(*none);
}

void GrammarEmitter::emit_pending() {
  while (!pending_.empty() && !full()) {
    const Pending next = pending_.front();
    pending_.pop_front();
    if (!next.rule) {
      land(next.address);
      emit(next.body);
      push({.op = Op::kReturn});
      continue;
    }
    const auto [at, is_new] = rule_addresses_.try_emplace(*next.rule, here());
    grammar_.code[next.address].target = at->second;
    if (!is_new) continue;
    emit(builder_->rules_[*next.rule].body.id);
    push({.op = Op::kReturn});
  }
}

/// Bytes that all sets hold or miss together become one class.
void GrammarEmitter::add_sets() {
  grammar_.classes.fill(0);
  grammar_.num_classes = 1;
  for (const ByteSet& set : grammar_.sets) {
    std::map<uint8_t, uint8_t> inside;  // class -> the class of its bytes that are in the set
    std::array<uint32_t, 256> sizes{}, num_inside{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      ++sizes[grammar_.classes[byte]];
      num_inside[grammar_.classes[byte]] += set[byte];
    }
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint8_t& old = grammar_.classes[byte];
      if (!set[byte] || num_inside[old] == sizes[old]) continue;
      const auto [at, is_new] = inside.try_emplace(old, grammar_.num_classes);
      grammar_.num_classes += is_new;
      old = at->second;
    }
  }
}

/// A jump to a return returns at once: the machine sees that a call in front of it is the last
/// thing that its rule does, and keeps no frame for it.
void GrammarEmitter::shorten_jumps() {
  for (Instruction& instruction : grammar_.code) {
    if (instruction.op != Op::kJump) continue;
    uint32_t target = instruction.target;
    for (int i = 0; i < 8 && grammar_.code[target].op == Op::kJump; ++i) {
      target = grammar_.code[target].target;
    }
    if (grammar_.code[target].op == Op::kReturn) instruction = {.op = Op::kReturn};
  }
}

Result<std::shared_ptr<const Grammar>> GrammarEmitter::run(GrammarBuilder::Expr root) {
  grammar_.sets = builder_->sets_;
  grammar_.max_depth = builder_->limits_->max_depth;
  grammar_.max_answer_work = builder_->limits_->max_answer_work;
  grammar_.work_per_byte = builder_->limits_->work_per_byte;
  push({.op = Op::kAccept});
  grammar_.start = here();
  emit(root.id);
  push({.op = Op::kReturn});
  emit_pending();
  if (builder_->full_ || full()) {
    return Error{Code::kInvalidArgument,
                 "the grammar is too large: its program would have more than " +
                     std::to_string(builder_->limits_->max_instructions) + " instructions"};
  }
  add_sets();
  shorten_jumps();
  std::vector<RuleAddress> rules;
  for (const auto& [rule, address] : rule_addresses_) {
    rules.push_back({address, builder_->rules_[rule].name});
  }
  if (auto checked = check_grammar(grammar_, rules); !checked.ok()) {
    return std::move(checked).error();
  }
  return std::make_shared<const Grammar>(std::move(grammar_));
}

Result<std::shared_ptr<const Grammar>> GrammarBuilder::build(Expr root) const {
  return GrammarEmitter(*this).run(root);
}

}  // namespace troupe::model
