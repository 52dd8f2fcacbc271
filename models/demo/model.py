"""The DeepSeek-V3 architecture, written for fast training on few CPU cores.

Same mathematics as transformers' DeepseekV3ForCausalLM (train.py checks that), but with
hand-written backward passes where autograd would waste memory traffic: RMSNorm, SwiGLU and the
routed experts. Projections that share their input are one matrix here and split on export.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "kv_lora_rank": 64,
    "max_position_embeddings": 4608,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 64,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 6,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 6,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 2,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 32,
    "vocab_size": 3072,
}
D, HEADS, NOPE, ROPE, V = (CONFIG[k] for k in (
    "hidden_size", "num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
Q_LORA, KV_LORA, VOCAB = CONFIG["q_lora_rank"], CONFIG["kv_lora_rank"], CONFIG["vocab_size"]
EXPERTS, GROUPS, TOP_GROUPS, TOP_K = (CONFIG[k] for k in (
    "n_routed_experts", "n_group", "topk_group", "num_experts_per_tok"))
EPS = CONFIG["rms_norm_eps"]


class RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
                            .div_(x.shape[-1]).add_(EPS))
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx, grad):
        normed, scale, weight = ctx.saved_tensors
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0)
        mean = torch.mv(product.flatten(0, -2), weight).div_(-normed.shape[-1])
        grad_x = (grad * weight).addcmul_(normed, mean.view(scale.shape)).mul_(scale)
        return grad_x, grad_weight


class SwiGlu(torch.autograd.Function):
    """[.., 2m] -> [.., m]: silu(first half) * second half."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        return swiglu_backward(ctx.saved_tensors[0], grad)


def swiglu_backward(x, grad):
    gate, up = x.chunk(2, dim=-1)
    result = torch.empty_like(x)
    torch.mul(grad, F.silu(gate), out=result[..., gate.shape[-1]:])
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=result[..., :gate.shape[-1]])
    return result


class RoutedExperts(torch.autograd.Function):
    """sum over k of weights[n, k] * expert idx[n, k] (x[n]): rows sorted by expert, one GEMM each."""

    @staticmethod
    def forward(ctx, x, weights, idx, gate_up, down):
        n, k = idx.shape
        order = idx.flatten().argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(n * k)
        ends = torch.bincount(idx.flatten(), minlength=len(down)).cumsum(0).tolist()
        spans = [(e, a, b) for e, (a, b) in enumerate(zip([0] + ends, ends)) if b > a]
        token = order // k
        rows = x.index_select(0, token)
        hidden = rows.new_empty(n * k, gate_up.shape[1])
        for e, a, b in spans:
            torch.mm(rows[a:b], gate_up[e].t(), out=hidden[a:b])
        gate, up = hidden.chunk(2, dim=-1)
        active = F.silu(gate).mul_(up)
        out = torch.empty_like(rows)
        for e, a, b in spans:
            torch.mm(active[a:b], down[e].t(), out=out[a:b])
        slots = out.index_select(0, inverse).view(n, k, -1)
        ctx.spans = spans
        ctx.save_for_backward(rows, hidden, active, slots, weights, order, inverse, token, gate_up, down)
        return torch.bmm(weights.unsqueeze(1), slots).squeeze(1)

    @staticmethod
    def backward(ctx, grad):
        rows, hidden, active, slots, weights, order, inverse, token, gate_up, down = ctx.saved_tensors
        n, k = weights.shape
        grad_weights = torch.bmm(slots, grad.unsqueeze(2)).squeeze(2)
        grad_out = grad.index_select(0, token).mul_(weights.flatten().index_select(0, order)[:, None])
        grad_gate_up, grad_down = torch.zeros_like(gate_up), torch.zeros_like(down)
        grad_active = torch.empty_like(active)
        for e, a, b in ctx.spans:
            torch.mm(grad_out[a:b].t(), active[a:b], out=grad_down[e])
            torch.mm(grad_out[a:b], down[e], out=grad_active[a:b])
        grad_hidden = swiglu_backward(hidden, grad_active)
        for e, a, b in ctx.spans:
            torch.mm(grad_hidden[a:b].t(), rows[a:b], out=grad_gate_up[e])
            torch.mm(grad_hidden[a:b], gate_up[e], out=grad_out[a:b])
        grad_x = grad_out.index_select(0, inverse).view(n, k, -1).sum(1)
        return grad_x, grad_weights, None, grad_gate_up, grad_down


def matrix(*shape, zero=False):
    data = torch.zeros(shape) if zero else torch.randn(shape) / math.sqrt(shape[-1])
    return nn.Parameter(data)


class Layer(nn.Module):
    def __init__(self, idx):
        super().__init__()
        self.input_norm = nn.Parameter(torch.ones(D))
        self.attention_in = matrix(Q_LORA + KV_LORA + ROPE, D)  # q_a, then kv_a with the rope key
        self.q_norm = nn.Parameter(torch.ones(Q_LORA))
        self.q_b = matrix(HEADS * (NOPE + ROPE), Q_LORA)
        self.kv_norm = nn.Parameter(torch.ones(KV_LORA))
        self.kv_b = matrix(HEADS * (NOPE + V), KV_LORA)
        self.o = matrix(D, HEADS * V, zero=True)
        self.post_norm = nn.Parameter(torch.ones(D))
        self.is_dense = idx < CONFIG["first_k_dense_replace"]
        inner = CONFIG["intermediate_size"] if self.is_dense else CONFIG["moe_intermediate_size"]
        self.gate_up = matrix(2 * inner, D)  # of the dense MLP or of the shared expert
        self.down = matrix(D, inner, zero=True)
        if not self.is_dense:
            self.gate = matrix(EXPERTS, D)
            self.register_buffer("gate_bias", torch.zeros(EXPERTS))
            self.expert_gate_up = matrix(EXPERTS, 2 * inner, D)
            self.expert_down = matrix(EXPERTS, D, inner, zero=True)
            self.load = torch.zeros(EXPERTS)

    def attention(self, x, cos, sin):
        b, t, _ = x.shape
        a = F.linear(RmsNorm.apply(x, self.input_norm), self.attention_in)
        q_a, kv_a, k_pe = a.split((Q_LORA, KV_LORA, ROPE), dim=-1)
        q = F.linear(RmsNorm.apply(q_a, self.q_norm), self.q_b).view(b, t, HEADS, NOPE + ROPE)
        kv = F.linear(RmsNorm.apply(kv_a, self.kv_norm), self.kv_b).view(b, t, HEADS, NOPE + V)
        q_nope, q_pe = q.split((NOPE, ROPE), dim=-1)
        k_nope, v = kv.split((NOPE, V), dim=-1)
        k_pe = rotate(k_pe.view(b, t, 1, ROPE), cos, sin).expand(b, t, HEADS, ROPE)
        q = torch.cat((q_nope, rotate(q_pe, cos, sin)), dim=-1).transpose(1, 2)
        k = torch.cat((k_nope, k_pe), dim=-1).transpose(1, 2)
        # The fused CPU attention wants equal head sizes: pad the values with zeros.
        v = F.pad(v, (0, NOPE + ROPE - V)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(out.transpose(1, 2)[..., :V].reshape(b, t, HEADS * V), self.o)

    def route(self, x):
        scores = F.linear(x, self.gate).sigmoid()
        with torch.no_grad():
            choice = scores + self.gate_bias
            groups = choice.view(-1, GROUPS, EXPERTS // GROUPS)
            best = groups.topk(2, dim=-1)[0].sum(-1).topk(TOP_GROUPS, dim=-1)[1]
            mask = torch.ones_like(groups[..., 0]).scatter_(1, best, 0).bool()
            choice = groups.masked_fill(mask.unsqueeze(-1), float("-inf")).view_as(choice)
            idx = choice.topk(TOP_K, dim=-1)[1]
            if self.training:
                self.load += torch.bincount(idx.flatten(), minlength=EXPERTS)
        weights = scores.gather(1, idx)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * CONFIG["routed_scaling_factor"], idx

    def mlp(self, x):
        x = RmsNorm.apply(x, self.post_norm).flatten(0, 1)
        out = F.linear(SwiGlu.apply(F.linear(x, self.gate_up)), self.down)
        if not self.is_dense:
            weights, idx = self.route(x)
            out = out + RoutedExperts.apply(x, weights, idx, self.expert_gate_up, self.expert_down)
        return out

    def forward(self, x, cos, sin):
        x = x + self.attention(x, cos, sin)
        return x + self.mlp(x).view_as(x)


def rotate(x, cos, sin):
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(VOCAB, D) * 0.5)
        self.layers = nn.ModuleList(Layer(i) for i in range(CONFIG["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(D))
        # Starting along the embedding makes "copy this token" the same direction for every token.
        self.head = nn.Parameter(F.normalize(self.embed.detach(), dim=-1))
        positions = torch.arange(CONFIG["max_position_embeddings"], dtype=torch.float32)
        inv_freq = 1.0 / CONFIG["rope_theta"] ** (torch.arange(0, ROPE, 2).float() / ROPE)
        angle = torch.outer(positions, inv_freq)[:, None, :]
        self.cos, self.sin = angle.cos(), angle.sin()

    def forward(self, tokens, wanted):
        """tokens [B, T]; wanted: flat positions whose logits are needed -> [len(wanted), VOCAB]."""
        x = F.embedding(tokens, self.embed)
        t = tokens.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        x = x.flatten(0, 1).index_select(0, wanted)
        return F.linear(RmsNorm.apply(x, self.norm), self.head)

    def balance(self, rate):
        """Auxiliary-loss-free load balancing: moves each expert's bias towards an equal load."""
        for layer in self.layers:
            if not layer.is_dense:
                layer.gate_bias += rate * torch.sign(layer.load.mean() - layer.load)
                layer.load.zero_()

    def hugging_face_tensors(self):
        """The weights under the names and dtypes of a released DeepSeek-V3 checkpoint."""
        bf16 = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm,
                "lm_head.weight": self.head}
        f32 = {}
        for i, layer in enumerate(self.layers):
            p = f"model.layers.{i}."
            q_a, kv_a = layer.attention_in.split((Q_LORA, KV_LORA + ROPE))
            bf16 |= {p + "input_layernorm.weight": layer.input_norm,
                     p + "post_attention_layernorm.weight": layer.post_norm,
                     p + "self_attn.q_a_proj.weight": q_a,
                     p + "self_attn.q_a_layernorm.weight": layer.q_norm,
                     p + "self_attn.q_b_proj.weight": layer.q_b,
                     p + "self_attn.kv_a_proj_with_mqa.weight": kv_a,
                     p + "self_attn.kv_a_layernorm.weight": layer.kv_norm,
                     p + "self_attn.kv_b_proj.weight": layer.kv_b,
                     p + "self_attn.o_proj.weight": layer.o}

            def mlp(prefix, gate_up, down):
                gate, up = gate_up.chunk(2)
                return {prefix + "gate_proj.weight": gate, prefix + "up_proj.weight": up,
                        prefix + "down_proj.weight": down}

            p += "mlp."
            bf16 |= mlp(p if layer.is_dense else p + "shared_experts.", layer.gate_up, layer.down)
            if not layer.is_dense:
                bf16[p + "gate.weight"] = layer.gate
                f32[p + "gate.e_score_correction_bias"] = layer.gate_bias
                for e in range(EXPERTS):
                    bf16 |= mlp(f"{p}experts.{e}.", layer.expert_gate_up[e], layer.expert_down[e])
        tensors = {k: t.detach().to(torch.bfloat16).contiguous() for k, t in bf16.items()}
        return tensors | {k: t.detach().float().clone() for k, t in f32.items()}
