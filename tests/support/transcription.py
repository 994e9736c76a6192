"""The equations of the layers and the network as loops over nodes, edges and frames: numpy, float64, no cleverness.

It shares no code with the package. Positions are x[node, frame, dimension], features h[node, frame, channel].
"""

import math

import numpy as np


def silu(z):
    return z / (1 + np.exp(-z))


class Weights:
    """The state dict of a module, as float64 arrays, under one prefix."""

    def __init__(self, module, prefix: str = ""):
        self.arrays = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
        self.prefix = prefix

    def under(self, prefix: str) -> "Weights":
        inner = object.__new__(Weights)
        inner.arrays, inner.prefix = self.arrays, f"{self.prefix}{prefix}."
        return inner

    def linear(self, name: str, z):
        return self.arrays[f"{self.prefix}{name}.weight"] @ z + self.arrays[f"{self.prefix}{name}.bias"]

    def mlp(self, name: str, z):
        return self.linear(f"{name}.actions.2", silu(self.linear(f"{name}.actions.0", z)))


def sinusoid(tau: float, dim: int):
    n = dim // 2
    frequencies = [math.exp(-math.log(10000) * k / (n - 1)) for k in range(n)]
    values = [math.sin(tau * f) for f in frequencies] + [math.cos(tau * f) for f in frequencies]
    return np.array(values + [0.0] * (dim % 2))


def envelope(distance: float, cutoff: float) -> float:
    """DimeNet's, p = 6."""
    t = distance / cutoff
    return 1 - 28 * t**6 + 48 * t**7 - 21 * t**8 if t < 1 else 0.0


def spatial_layer(weights: Weights, x, h, edge_index, edge_attr, normalize: bool, pre_norm: bool, cutoff=None):
    """edge_attr: [edge, A], [edge, frame, A] or None."""
    num_nodes, num_frames, _ = x.shape
    x_out, h_out = np.empty_like(x), np.empty((num_nodes, num_frames, h.shape[2]))
    for t in range(num_frames):
        for i in range(num_nodes):
            messages, shifts, counts = np.zeros(_width(weights)), [], []
            for e in range(edge_index.shape[1]):
                if edge_index[0, e] != i:
                    continue
                j = edge_index[1, e]
                r = x[i, t] - x[j, t]
                distance = math.sqrt(sum(r**2)) if pre_norm else sum(r**2)
                a = [] if edge_attr is None else (edge_attr[e] if edge_attr.ndim == 2 else edge_attr[e, t])
                m = silu(weights.mlp("edge_mlp", np.concatenate([h[i, t], h[j, t], [distance], a])))
                g = weights.mlp("coord_mlp", m)[0]
                if normalize and not pre_norm:
                    g = g / (math.sqrt(sum(r**2) + 1e-8) + 1)
                u = 1 if cutoff is None else envelope(math.sqrt(sum(r**2)), cutoff)
                messages = messages + u * m
                shifts.append(u * g * r)
                counts.append(u)
            divisor = max(len(shifts), 1) if cutoff is None else math.sqrt(1 + sum(counts) ** 2)
            x_out[i, t] = x[i, t] + sum(shifts) / divisor
            h_out[i, t] = weights.mlp("node_mlp", np.concatenate([h[i, t], messages]))
    return x_out, h_out


def _width(weights: Weights) -> int:
    return len(weights.arrays[f"{weights.prefix}edge_mlp.actions.2.bias"])


def temporal_layer(weights: Weights, x, h, time_emb_dim: int, frames=None, window=None):
    num_nodes, num_frames, _ = x.shape
    frames = range(num_frames) if frames is None else frames
    x_out, h_out = np.empty_like(x), np.empty_like(h)
    for i in range(num_nodes):
        k = [weights.mlp("k_mlp", h[i, s]) for s in range(num_frames)]
        v = [weights.mlp("v_mlp", h[i, s]) for s in range(num_frames)]
        for t in range(num_frames):
            q = weights.mlp("q_mlp", h[i, t])
            psi = [weights.linear("time_emb", sinusoid(frames[t] - frames[s], time_emb_dim)) for s in range(num_frames)]
            logits = np.array([q @ (k[s] + psi[s]) for s in range(num_frames)])
            if window is not None:
                logits[[abs(frames[t] - frame) > window for frame in frames]] = -np.inf
            alpha = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            h_out[i, t] = h[i, t] + sum(alpha[s] * (v[s] + psi[s]) for s in range(num_frames))
            gates = [weights.mlp("x_mlp", v[s])[0] for s in range(num_frames)]
            x_out[i, t] = x[i, t] + sum(alpha[s] * gates[s] * (x[i, t] - x[i, s]) for s in range(num_frames))
    return x_out, h_out


def features(weights: Weights, name: str, h, frames, step=None, time_emb_dim: int = 0):
    """The first layer: h is [node, F] or [node, F, frame]; step [node] is appended as a sinusoid."""
    rows = []
    for i in range(len(h)):
        embedded = [] if step is None else sinusoid(step[i], time_emb_dim)
        own = [h[i] if h.ndim == 2 else h[i, :, t] for t in frames]
        rows.append([weights.linear(name, np.concatenate([z, embedded])) for z in own])
    return np.array(rows)


def network(module, step, x_noisy, x_given, given, h, edge_index, edge_attr):
    """x_noisy [node, D, noisy frame] and x_given [node, D, frame] to x_out and h_out, [node, -, noisy frame]."""
    weights = Weights(module)
    num_frames = x_given.shape[2]
    noisy = [t for t in range(num_frames) if t not in given]
    x = np.empty((len(h), num_frames, x_given.shape[1]))
    for t in range(num_frames):
        x[:, t] = x_given[:, :, t] if t in given else x_noisy[:, :, noisy.index(t)]
    x = x * module.scale
    z = features(weights, "input_linear", h, range(num_frames), step, module.time_emb_dim)
    for layer in range(module.n_layers):
        pre_norm = module.s_modules[layer].pre_norm
        x, z = spatial_layer(weights.under(f"s_modules.{layer}"), x, z, edge_index, edge_attr, True, pre_norm)
        x, z = temporal_layer(weights.under(f"t_modules.{layer}"), x, z, module.time_emb_dim)
    x, z = x[:, noisy].transpose(0, 2, 1), z[:, noisy].transpose(0, 2, 1)
    return (x - x_noisy) / module.scale, z


def learned_prior(module, x_given, given, h, edge_index, edge_attr):
    """x_given [node, D, frame] to x_ref [node, D, num_w]; the given frames keep their true distances in time."""
    weights = Weights(module)
    x = x_given[:, :, given].transpose(0, 2, 1) * module.scale
    z = features(weights, "input_linear_ref", h, given)
    for layer in range(module.n_layers_ref):
        pre_norm = module.s_modules_ref[layer].pre_norm
        x, z = spatial_layer(weights.under(f"s_modules_ref.{layer}"), x, z, edge_index, edge_attr, True, pre_norm)
        x, z = temporal_layer(weights.under(f"t_modules_ref.{layer}"), x, z, module.time_emb_dim, given)
    ws = weights.arrays["ws"]
    x_ref = np.zeros((len(h), x_given.shape[1], len(ws)))
    for i in range(len(h)):
        for s in range(len(ws)):
            w = [z[i, t].mean() * ws[s] for t in range(len(given) - 1)]
            w.append(1 - sum(w))
            x_ref[i, :, s] = sum(w[t] * x[i, t] for t in range(len(given)))
    return x_ref / module.scale
