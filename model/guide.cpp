#include "model/guide.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"
#include "model/generation_config.hpp"

namespace troupe::model {
namespace {

/// All tokens but those that end the answer.
std::vector<uint64_t> all_but_ends(const Vocabulary& vocabulary) {
  std::vector<uint64_t> mask(vocabulary.num_words(), ~uint64_t{0});
  for (const TokenId end : vocabulary.end_tokens()) mask[end / 64] &= ~(uint64_t{1} << end % 64);
  return mask;
}

/// Whatever a grammar cannot do is the fault of the request that brought it.
Error at_fault(Error error) { return {Code::kInvalidArgument, std::move(error.message)}; }

}  // namespace

Result<void> Guides::prepare(const GrammarSpec& spec, GuideState& state) {
  if (state.masker) return {};
  if (!vocabulary_.ok()) {
    return at_fault(
        Error{vocabulary_.error()}.with_context("the router cannot guide answers by a grammar"));
  }
  const auto same = [&](const Kept& kept) {  // where it begins is no part of the grammar
    return kept.spec.kind == spec.kind && kept.spec.text == spec.text &&
           kept.spec.choices == spec.choices;
  };
  const auto found = std::find_if(kept_.begin(), kept_.end(), same);
  if (found != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, found);
  } else {
    // Masks are bounded without a look at the automata.
    auto grammar = TRY(compile_grammar(spec, {.max_automaton = 0}));
    kept_.push_front({spec, std::make_shared<TokenMasker>(std::move(grammar), *vocabulary_)});
    if (kept_.size() > kMaxKept) kept_.pop_back();  // requests that run keep theirs
  }
  state.masker = kept_.front().masker;
  return {};
}

Result<std::span<const uint64_t>> Guides::mask(const GrammarSpec& spec,
                                               std::span<const TokenId> emitted,
                                               GuideState& state) {
  TRY(prepare(spec, state));
  if (!state.next || emitted.size() != state.num_taken) {
    state.next = next_mask(spec, emitted, state);
  }
  if (!state.next->ok()) return at_fault(state.next->error());
  return std::span<const uint64_t>(state.next->value());
}

Result<std::vector<uint64_t>> Guides::next_mask(const GrammarSpec& spec,
                                                std::span<const TokenId> emitted,
                                                GuideState& state) {
  CHECK_LE(state.num_taken, emitted.size());
  if (!state.position && spec.begins_after < 0) state.position.emplace(state.masker->grammar());
  for (; state.num_taken < emitted.size(); ++state.num_taken) {
    const TokenId token = emitted[state.num_taken];
    if (state.position) {
      auto advanced = state.masker->advance(*state.position, token);
      if (!advanced.ok()) return std::move(advanced).error().with_context("the answer so far");
    } else if (token == spec.begins_after) {
      state.position.emplace(state.masker->grammar());
    }
  }
  if (!state.position) {
    if (spec.may_end_before) return std::vector<uint64_t>();
    return all_but_ends(**vocabulary_);
  }
  std::vector<uint64_t> mask(state.masker->num_words());
  TRY(state.masker->mask(*state.position, mask));
  return mask;
}

Result<std::shared_ptr<const Vocabulary>> load_vocabulary(const std::string& directory,
                                                          const ModelConfig& config) {
  const Tokenizer tokenizer = TRY(Tokenizer::load(directory));
  const GenerationConfig generation = TRY(load_generation_config(directory, config));
  return Vocabulary::create(tokenizer, generation.eos_token_ids, config.vocab_size);
}

}  // namespace troupe::model
