"""The decoder again, in float64 numpy with loops over tokens: what tests/model compares the real one with."""

import numpy as np


def rms_norm(x, scale, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def rotate(cfg, x, position):
    """x: [heads, H] of one token."""
    half = cfg.rotary_dim // 2
    out = x.copy()
    for i in range(half):
        angle = position * cfg.rope_base ** (-2.0 * i / cfg.rotary_dim)
        out[:, i] = x[:, i] * np.cos(angle) - x[:, i + half] * np.sin(angle)
        out[:, i + half] = x[:, i + half] * np.cos(angle) + x[:, i] * np.sin(angle)
    return out


def attention(cfg, w, x):
    q, k, v = (np.einsum("sd,dnh->snh", x, w[name]) for name in "qkv")
    if cfg.qkv_bias:
        q, k, v = q + w["q_bias"], k + w["k_bias"], v + w["v_bias"]
    if cfg.smear_keys:
        a = w["smear"][:, None]
        k = np.stack([a * k[s] + (1 - a) * k[max(s - 1, 0)] for s in range(len(x))])
    if cfg.qk_norm:
        q, k = rms_norm(q, w["q_norm"], cfg.norm_eps), rms_norm(k, w["k_norm"], cfg.norm_eps)
    q, k = (np.stack([rotate(cfg, row, s) for s, row in enumerate(y)]) for y in (q, k))
    out = np.zeros_like(x)
    for s in range(len(x)):
        for n in range(cfg.heads):
            kv = n // (cfg.heads // cfg.kv_heads)
            scores = k[: s + 1, kv] @ q[s, n] / np.sqrt(cfg.head_dim)
            weights = np.exp(scores - scores.max())
            out[s] += (weights / weights.sum()) @ v[: s + 1, kv] @ w["o"][n]
    return out


def mlp(cfg, w, x):
    if cfg.mlp == "swiglu":
        gate = x @ w["gate"]
        return (gate / (1 + np.exp(-gate)) * (x @ w["up"])) @ w["down"]
    return np.maximum(x @ w["up"], 0) ** 2 @ w["down"]


def logits(cfg, params, ids):
    """Logits float64 [S, V] of one sequence ids [S]; params: nested dict of numpy arrays."""
    table = params["embedding"][np.asarray(ids)]
    x = table.copy()
    for j in range(1, cfg.token_shift + 1):
        x[j:] += params["shift"][j - 1] * table[:-j]
    for index in range(cfg.layers):
        blocks = params["blocks"]
        w = {part: {name: a[index] for name, a in blocks[part].items()} for part in ("attention", "mlp")}
        x = x + attention(cfg, w["attention"], rms_norm(x, blocks["attention_norm"][index], cfg.norm_eps))
        x = x + mlp(cfg, w["mlp"], rms_norm(x, blocks["mlp_norm"][index], cfg.norm_eps))
    x = rms_norm(x, params["final_norm"], cfg.norm_eps)
    return x @ (params["embedding"].T if cfg.tie_embeddings else params["unembedding"])
