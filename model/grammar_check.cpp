#include "model/grammar_check.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/grammar_machine.hpp"

namespace troupe::model {
namespace {

using Op = Instruction::Op;

constexpr uint16_t kNever = UINT16_MAX;
/// Frames that calls and repetitions may hold within one level of nesting. With max_depth it bounds
/// the recursions over a stack; what people write needs about ten.
constexpr uint32_t kMaxFramesPerLevel = 64;

/// Adjacency lists in one array.
class Edges {
 public:
  Edges(size_t num_nodes, std::vector<std::pair<uint32_t, uint32_t>> edges)
      : edges_(std::move(edges)), begins_(num_nodes + 1) {
    std::sort(edges_.begin(), edges_.end());
    for (const auto& [from, to] : edges_) ++begins_[from + 1];
    for (size_t i = 1; i < begins_.size(); ++i) begins_[i] += begins_[i - 1];
  }
  [[nodiscard]] std::span<const std::pair<uint32_t, uint32_t>> from(uint32_t node) const {
    return std::span(edges_).subspan(begins_[node], begins_[node + 1] - begins_[node]);
  }

 private:
  std::vector<std::pair<uint32_t, uint32_t>> edges_;
  std::vector<uint32_t> begins_;
};

/// What the cheapest way from each instruction to the kReturn of its rule costs: levels of nesting
/// or, for `of_bytes`, 0 where no byte is needed and kNever where one is. kNever: there is no way,
/// or it needs more than max_depth.
std::vector<uint16_t> cheapest_ways(const Grammar& grammar, bool of_bytes) {
  const auto size = static_cast<uint32_t>(grammar.code.size());
  std::vector<uint16_t> cost(size, kNever);
  const auto evaluate = [&](uint32_t at) -> uint16_t {
    const Instruction& instruction = grammar.code[at];
    const auto next = [&] { return cost[at + 1]; };
    const auto target = [&] { return cost[instruction.target]; };
    switch (instruction.op) {
      case Op::kAccept:
      case Op::kReturn: return 0;
      case Op::kBytes: return of_bytes ? kNever : next();
      case Op::kSplit: return std::min(next(), target());
      case Op::kJump: return target();
      case Op::kRepeat: return instruction.min == 0 ? next() : std::max(next(), target());
      case Op::kCall: {
        const bool deeper = instruction.deeper && !of_bytes;
        const uint32_t called = target() == kNever ? kNever : target() + deeper;
        if (called > grammar.max_depth) return kNever;
        return std::max(next(), static_cast<uint16_t>(called));
      }
    }
    return kNever;
  };
  std::vector<std::pair<uint32_t, uint32_t>> dependents;
  std::vector<uint32_t> todo;
  for (uint32_t at = 0; at < size; ++at) {
    const Op op = grammar.code[at].op;
    const bool is_end = op == Op::kAccept || op == Op::kReturn;
    if (!is_end && op != Op::kJump) dependents.emplace_back(at + 1, at);
    if (!is_end && op != Op::kBytes) dependents.emplace_back(grammar.code[at].target, at);
    todo.push_back(at);
  }
  const Edges edges(size, std::move(dependents));
  while (!todo.empty()) {
    const uint32_t at = todo.back();
    todo.pop_back();
    const uint16_t found = evaluate(at);
    if (found == cost[at]) continue;
    cost[at] = found;
    for (const auto& [from, dependent] : edges.from(at)) todo.push_back(dependent);
  }
  return cost;
}

/// Which subroutine calls which. A node is a subroutine: the root, a rule, a repetition's body.
struct CallGraph {
  std::vector<uint32_t> starts;                         // node -> its first instruction
  std::unordered_map<uint32_t, uint32_t> nodes;         // first instruction -> node
  std::vector<std::pair<uint32_t, uint32_t>> leftmost;  // calls before any byte is consumed
  struct Call {
    uint32_t from, to, num_frames;
  };
  std::vector<Call> level;  // calls that are no level of nesting

  uint32_t node(uint32_t start) {
    const auto [at, is_new] = nodes.try_emplace(start, static_cast<uint32_t>(starts.size()));
    if (is_new) starts.push_back(start);
    return at->second;
  }
};

CallGraph call_graph(const Grammar& grammar) {
  const std::vector<uint16_t> bytes = cheapest_ways(grammar, true);
  CallGraph graph;
  graph.node(grammar.start);
  std::vector<bool> seen(grammar.code.size()), is_leftmost(grammar.code.size());
  // Two searches over the instructions of each subroutine: first those reachable without a byte.
  const auto search = [&](uint32_t node, bool leftmost, std::vector<bool>& done) {
    std::vector<uint32_t> todo{graph.starts[node]};
    while (!todo.empty()) {
      const uint32_t at = todo.back();
      todo.pop_back();
      if (done[at]) continue;
      done[at] = true;
      const Instruction& instruction = grammar.code[at];
      const Op op = instruction.op;
      if (op == Op::kReturn || op == Op::kAccept || (op == Op::kBytes && leftmost)) continue;
      const bool is_call = op == Op::kCall || op == Op::kRepeat;
      if (is_call) {
        const uint32_t to = graph.node(instruction.target);
        const bool is_tail = op == Op::kCall && grammar.code[at + 1].op == Op::kReturn;
        if (leftmost) {
          graph.leftmost.emplace_back(node, to);
        } else if (!instruction.deeper) {
          graph.level.push_back({node, to, is_tail ? 0U : 1U});
        }
      }
      if (op == Op::kSplit || op == Op::kJump) todo.push_back(instruction.target);
      if (op == Op::kJump) continue;
      const bool passes = (op == Op::kRepeat && instruction.min == 0) || !(is_call && leftmost) ||
                          bytes[instruction.target] == 0;
      if (passes) todo.push_back(at + 1);
    }
  };
  for (uint32_t node = 0; node < graph.starts.size(); ++node) {
    search(node, true, is_leftmost);
    search(node, false, seen);
  }
  return graph;
}

/// The first of the nodes that is a rule; a cycle has one, since only rules are called by name.
std::string name_of(std::span<const uint32_t> nodes, const CallGraph& graph,
                    std::span<const RuleAddress> rules) {
  for (const uint32_t node : nodes) {
    for (const RuleAddress& rule : rules) {
      if (rule.address == graph.starts[node]) return rule.name;
    }
  }
  return "the grammar";
}

/// The longest paths into each node, or, where there are cycles, the nodes of one.
struct Paths {
  std::vector<uint32_t> longest;
  std::vector<uint32_t> cycle;
};

Paths longest_paths(size_t num_nodes, std::span<const CallGraph::Call> calls) {
  std::vector<std::pair<uint32_t, uint32_t>> forward;
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> num_frames;
  for (const CallGraph::Call& call : calls) {
    auto& most = num_frames[{call.from, call.to}];
    most = std::max(most, call.num_frames);
  }
  std::vector<uint32_t> num_callers(num_nodes);
  for (const auto& [edge, frames] : num_frames) {
    forward.push_back(edge);
    ++num_callers[edge.second];
  }
  const Edges edges(num_nodes, std::move(forward));
  Paths paths{std::vector<uint32_t>(num_nodes), {}};
  std::vector<uint32_t> todo;
  for (uint32_t node = 0; node < num_nodes; ++node) {
    if (num_callers[node] == 0) todo.push_back(node);
  }
  while (!todo.empty()) {
    const uint32_t from = todo.back();
    todo.pop_back();
    for (const auto& edge : edges.from(from)) {
      uint32_t& longest = paths.longest[edge.second];
      longest = std::max(longest, paths.longest[from] + num_frames[edge]);
      if (--num_callers[edge.second] == 0) todo.push_back(edge.second);
    }
  }
  // What is left is called by what is left: going backward from any of it ends on a cycle.
  std::vector<std::optional<uint32_t>> caller(num_nodes);
  for (const auto& [edge, frames] : num_frames) {
    if (num_callers[edge.first] > 0) caller[edge.second] = edge.first;
  }
  for (uint32_t node = 0; node < num_nodes; ++node) {
    if (num_callers[node] == 0) continue;
    std::vector<bool> seen(num_nodes);
    for (; !seen[node]; node = *caller[node]) seen[node] = true;
    for (uint32_t on = node; paths.cycle.empty() || on != node; on = *caller[on]) {
      paths.cycle.push_back(on);
    }
    break;
  }
  return paths;
}

}  // namespace

Result<void> check_grammar(Grammar& grammar, std::span<const RuleAddress> rules) {
  const CallGraph graph = call_graph(grammar);
  std::vector<CallGraph::Call> leftmost;
  for (const auto& [from, to] : graph.leftmost) leftmost.push_back({from, to, 0});
  if (const Paths paths = longest_paths(graph.starts.size(), leftmost); !paths.cycle.empty()) {
    return Error{Code::kInvalidArgument,
                 name_of(paths.cycle, graph, rules) + " can begin with itself (left recursion)"};
  }
  grammar.levels = cheapest_ways(grammar, false);
  if (grammar.levels[grammar.start] == kNever) {
    return Error{Code::kInvalidArgument, "no text can satisfy the grammar within a nesting of " +
                                             std::to_string(grammar.max_depth)};
  }
  const Paths paths = longest_paths(graph.starts.size(), graph.level);
  if (!paths.cycle.empty()) {
    return Error{Code::kInvalidArgument, name_of(paths.cycle, graph, rules) +
                                             " contains itself without a level of nesting"};
  }
  for (uint32_t node = 0; node < graph.starts.size(); ++node) {
    if (paths.longest[node] > kMaxFramesPerLevel) {
      return Error{Code::kInvalidArgument,
                   name_of(std::span(&node, 1), graph, rules) + " lies in more than " +
                       std::to_string(kMaxFramesPerLevel) + " calls and repetitions"};
    }
  }
  return {};
}

Result<void> check_automaton(const Grammar& grammar, const GrammarLimits& limits, size_t& size) {
  if (limits.max_automaton == 0) return {};
  const Error too_large{Code::kInvalidArgument,
                        "the regex is too complex: its automaton has more than " +
                            std::to_string(limits.max_automaton) +
                            " states and threads; fewer or smaller repetitions {n,m} help"};
  std::vector<unsigned char> bytes(grammar.num_classes);  // one of each class
  for (unsigned byte = 0; byte < 256; ++byte) {
    bytes[grammar.classes[byte]] = static_cast<unsigned char>(byte);
  }
  GrammarMachine machine(grammar);
  ThreadSetTable table;
  auto start = machine.start();
  if (!start.ok()) return too_large;
  table.intern(std::move(*start));
  const auto work = [&] { return machine.work() / GrammarMachine::kWorkOfAState; };
  for (uint32_t state = 0; state < table.size(); ++state) {
    const ThreadSetPtr threads = table[state];
    size += 1 + threads->threads.size();
    for (const unsigned char byte : bytes) {
      if (size + work() > limits.max_automaton) return too_large;
      auto next = machine.step(*threads, byte);
      if (!next.ok()) return too_large;
      if (*next) table.intern(std::move(*next));
    }
  }
  size += work();
  return {};
}

}  // namespace troupe::model
