#include "tests/support/requests.hpp"

#include "actors/local_model.hpp"
#include "base/check.hpp"
#include "base/random.hpp"

namespace troupe::actors {

std::string golden_model(const std::string& name) {
  return std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/" + name;
}

scheduler::RequestSpec greedy(uint32_t max_tokens) {
  scheduler::RequestSpec spec{
      .prompt = {3, 1, 4, 1, 5}, .max_tokens = max_tokens, .timeout = seconds(60)};
  spec.sampling.temperature = 0;
  return spec;
}

std::vector<scheduler::RequestSpec> mixed_requests(uint32_t vocab_size, size_t count) {
  std::vector<scheduler::RequestSpec> specs;
  for (size_t i = 0; i < count; ++i) {
    scheduler::RequestSpec spec{.max_tokens = static_cast<uint32_t>(4 + i * 3 % 29),
                                .timeout = seconds(60)};
    const size_t length = 1 + random_bits(1, i) % (i % 3 == 0 ? 150 : 12);
    for (size_t t = 0; t < length; ++t) {
      spec.prompt.push_back(static_cast<TokenId>(random_bits(2 + i, t) % vocab_size));
    }
    if (i % 2 == 0) {
      spec.sampling.temperature = 0;
    } else {
      spec.sampling = {.temperature = 0.9F, .top_p = 0.95F, .top_k = 40, .seed = 77 + i};
    }
    if (i % 3 == 2) {  // with rules that look at the token log
      spec.sampling.presence_penalty = 0.5F;
      spec.sampling.frequency_penalty = 0.25F;
      spec.sampling.repetition_penalty = 1.3F;
      spec.sampling.min_tokens = 5;
      spec.sampling.logit_bias = {{7, 3.0F}, {11, -100.0F}};
      spec.sampling.bad_words = {{3}, {5, 9}};
    }
    spec.sampling.want_logprobs = i % 4 == 1;
    spec.sampling.num_top_logprobs = i % 4 == 1 ? 3 : 0;
    if (i % 7 == 1) spec.sampling.num_prompt_logprobs = i % 3;
    specs.push_back(std::move(spec));
  }
  return specs;
}

std::vector<Stream> generated_alone(const std::string& model,
                                    const std::vector<scheduler::RequestSpec>& specs,
                                    DType kv_dtype, kernels::Backend backend) {
  const auto checkpoint = model::Checkpoint::open(model);
  CHECK(checkpoint.ok());
  auto local = LocalModel::load(*checkpoint,
                                {.kv_dtype = kv_dtype,
                                 .max_context = 512,
                                 .vocabulary = model::load_vocabulary(model, checkpoint->config())},
                                std::move(backend));
  CHECK(local.ok());
  std::vector<Stream> streams;
  for (const scheduler::RequestSpec& spec : specs) {
    Stream stream{.admitted = true};
    if (const auto num_top = spec.sampling.num_prompt_logprobs) {
      CHECK((*local)
                ->logits(spec.prompt,
                         [&](uint32_t row, std::span<const float> logits) {
                           if (row + 1 == spec.prompt.size()) return;
                           stream.prompt_logprobs.push_back(
                               model::score(logits, spec.prompt[row + 1], *num_top));
                         })
                .ok());
    }
    const auto reason = (*local)->generate(spec, [&](const model::SampledToken& token) {
      stream.tokens.push_back(token);
      return true;
    });
    CHECK(reason.ok());
    stream.finished = *reason;
    streams.push_back(std::move(stream));
  }
  return streams;
}

}  // namespace troupe::actors
